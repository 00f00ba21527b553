"""`atoll watch`: how a run stands, from anywhere that its invite is. Looks, changes nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atoll.cli.output import print_json
from atoll.launch.folder import invite_at
from atoll.launch.local import Progress
from atoll.launch.status import Look, Watcher

STATE_COLOURS = {"live": "green", "busy": "cyan", "away": "yellow"}


def watch(
    run: Annotated[Path, typer.Argument(help="An invite, or the folder of a run.")],
    once: Annotated[bool, typer.Option("--once", help="Look once; exit code 1 if silent.")] = False,
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two looks.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Show how a run stands: phase, progress, learners, merges, and what it waits for.

    Ends with the run, or with Ctrl-C. When the syncer does not answer it says so and since when,
    and goes on when the syncer is back.
    """
    watcher = Watcher(invite_at(run))
    if once:
        look = watcher.look()
        _show(look, watcher.invite.run, as_json)
        if not look.answers:
            raise typer.Exit(1)
        return
    console = Console()
    if as_json or not console.is_terminal:
        _lines(watcher, max(0.1, every_s), as_json)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            look = watcher.look()
            live.update(view(look, watcher.invite.run), refresh=True)
            if is_over(look):
                return
            time.sleep(max(0.1, every_s))


def is_over(look: Look) -> bool:
    """The run has ended; nothing more will happen."""
    return look.status.get("phase") == "ended"


def summary(look: Look, run: str) -> dict[str, Any]:
    """The figures of a look that a person wants, under the names that `--json` gives them."""
    status, progress = look.status, Progress(look.status)
    coordinator = status.get("coordinator", {})
    tallies = [shard["tally"] for shard in status.get("shards", {}).values()]

    def total(key: str) -> int:
        return sum(int(tally[key]) for tally in tallies)

    counts = status.get("counts", {})
    return {
        "run": run,
        "answers": look.answers,
        "silent_s": round(look.silent_s, 1),
        "why_silent": look.why,
        "phase": progress.phase if status else "unknown",
        "waiting": str(status.get("waiting", "")),
        "degraded": str(status.get("degraded", "")),
        "progress": progress.share,
        "trained": progress.trained,
        "merged": int(coordinator.get("merged", 0)),
        "budget": int(coordinator.get("budget", 0)),
        **{key: int(coordinator.get(key, 0)) for key in ("registered", "live", "busy", "away")},
        "merges": total("merges"),
        "thin": total("thin"),
        "merged_a_round": total("learners_merged") / max(1, total("merges")),
        "participation": total("learners_merged") / max(1, total("learners_live")),
        "repeated_items": int(coordinator.get("repeated_items", 0)),
        "data_pass": int(coordinator.get("data_pass", 0)),
        "leases_held": int(coordinator.get("leases_held", 0)),
        "bytes_in": int(counts.get("bytes_in", 0)),
        "bytes_out": int(counts.get("bytes_out", 0)),
        "learners": status.get("learners", {}),
    }


def view(look: Look, run: str) -> Group:
    """A look for people."""
    plain = summary(look, run)
    parts: list[Text | Table] = [Text(_headline(plain), style="bold")]
    if not look.answers:
        text = f"the syncer has not answered for {look.silent_s:.0f} s: {look.why}"
        parts.append(Text(text, style="yellow"))
    said = (plain["waiting"], plain["degraded"])
    parts += [Text(sentence, style="yellow") for sentence in said if sentence]
    if look.status:
        parts.append(Text(_figures(plain)))
    if plain["learners"]:
        parts.append(_learners(plain["learners"]))
    return Group(*parts)


def _headline(plain: dict[str, Any]) -> str:
    head = f"run '{plain['run']}'  {plain['phase']}"
    if not plain["budget"]:
        return head
    trained, budget = plain["trained"] / 1000, plain["budget"] / 1000
    return f"{head}  {plain['progress']:.0%}  {trained:,.0f}k of {budget:,.0f}k tokens"


def _figures(plain: dict[str, Any]) -> str:
    text = (
        f"{plain['registered']} registered: {plain['live']} live, {plain['busy']} busy, "
        f"{plain['away']} away\n"
        f"{plain['merges']} merges ({plain['thin']} thin) of {plain['merged_a_round']:.1f} "
        f"learners each, participation {plain['participation']:.0%}\n"
        f"{plain['bytes_in'] / 1e6:.1f} MB in, {plain['bytes_out'] / 1e6:.1f} MB out "
        "since the syncer started"
    )
    if not (plain["data_pass"] or plain["leases_held"] or plain["repeated_items"]):
        return text
    word = "pass" if plain["data_pass"] == 1 else "passes"
    return (
        f"{text}\n{plain['data_pass']} whole {word} over the data, {plain['leases_held']} leases "
        f"held, {plain['repeated_items']:,} items repeated"
    )


def _learners(learners: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("learner", "state", "step", "tokens", "s per step", "life"):
        table.add_column(heading, justify="left" if heading in ("learner", "state") else "right")
    for name, each in learners.items():
        state = Text(each["state"], style=STATE_COLOURS.get(each["state"], "red"))
        if not each["connected"]:
            state.append(" (not connected)", style="yellow")
        tokens, pace = f"{each['tokens']:,}", f"{each['pace_s']:.2f}"
        table.add_row(name, state, str(each["step"]), tokens, pace, str(each["incarnation"]))
    return table


def _show(look: Look, run: str, as_json: bool) -> None:
    if as_json:
        print_json(summary(look, run))
    else:
        Console().print(view(look, run))


def _lines(watcher: Watcher, every_s: float, as_json: bool) -> None:
    """For programs a document at each look; for a pipe or a log a line when something changed."""
    before = ""
    while True:
        look = watcher.look()
        plain = summary(look, watcher.invite.run)
        if as_json:
            print_json(plain)
        elif (line := _line(plain)) != before:
            print(line, flush=True)
            before = line
        if is_over(look):
            return
        sys.stdout.flush()
        time.sleep(every_s)


def _line(plain: dict[str, Any]) -> str:
    """What changes seldom."""
    if not plain["answers"]:
        return f"run '{plain['run']}'  the syncer does not answer: {plain['why_silent']}"
    states = "  ".join(f"{name} {each['state']}" for name, each in plain["learners"].items())
    text = f"run '{plain['run']}'  {plain['phase']}  {plain['progress']:.0%}  {states}"
    return f"{text}  {plain['waiting'] or plain['degraded']}".rstrip()
