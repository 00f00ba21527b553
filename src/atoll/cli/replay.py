"""`atoll replay`: the recorded events once more, held against recorded decisions and numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.output import print_json
from atoll.cli.verify import tapes_of
from atoll.tape import replay as player
from atoll.tape.format import MERGING

NO_PAYLOADS = (
    "this run kept no contributions, so merges were not computed again: "
    "tape_payloads = true in [service] of a run file keeps them"
)
MOST_NOTES = 10


def replay(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, or a folder of tapes.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Feed a run's recorded events to this version's cores and compare every decision.

    Where the run kept its contributions ([service] tape_payloads = true), every merge is computed
    again too and compared bit by bit. Says what was compared.

    Exit code 0 when all is equal, else 1.
    """
    tapes = tapes_of(run_dir)
    report = player.replay(tapes, _recompute(tapes))
    if not report.merges_recomputed and report.merges and not (tapes / MERGING).exists():
        report.notes.append(NO_PAYLOADS)
    if as_json:
        document = {"command": "replay", **asdict(report), "compared": report.compared()}
        print_json(document)
    else:
        _show(report)
    if not report.equal:
        raise typer.Exit(1)


def _recompute(tapes: Path) -> player.Recompute | None:
    """What merges again, for tapes that have payloads; torch is imported for it."""
    if not (tapes / MERGING).exists():
        return None
    from atoll.tape.numbers import recomputer_of

    return recomputer_of(tapes)


def _show(report: player.ReplayReport) -> None:
    verdict = "equal" if report.equal else "DIFFERENT"
    print(
        f"{verdict}: {report.events} events and {report.effects} effects of "
        f"{report.parties} parties, {report.state_checks} states"
    )
    print(f"  compared: {report.compared()}")
    shown = report.notes[:MOST_NOTES]
    for line in (report.first_difference, *report.torn, *shown):
        if line:
            print(f"  {line}")
    if len(report.notes) > MOST_NOTES:
        print(f"  and {len(report.notes) - MOST_NOTES} more of this kind")
