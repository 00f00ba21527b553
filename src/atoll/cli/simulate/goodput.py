"""`atoll simulate goodput`: what chips that fail cost a way of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.cli.quantities import count_of
from atoll.cli.simulate.progress import progress_to_stderr
from atoll.simulator.chips.constants import PROTOCOL
from atoll.simulator.chips.goodput import Goodput, Share, measure
from atoll.simulator.chips.settings import SINGLE, SYSTEMS, ChipRun


def goodput(
    system: Annotated[
        str, typer.Option(help="none, elastic, diloco, streaming or decoupled.")
    ] = "decoupled",
    chips: Annotated[str, typer.Option(help="Chips of all learners: 1.2M, 150_000.")] = "1.2M",
    learners: Annotated[int, typer.Option(help="M; none and elastic are one job.")] = 8,
    mtbi_years: Annotated[float, typer.Option(help="Years between two failures of a chip.")] = 1.0,
    days: Annotated[float, typer.Option(help="Simulated days; 0: a few seconds' worth.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Draws everything.")] = 0,
    fragments: Annotated[int, typer.Option(help="P, on which participation depends.")] = 8,
    overlap: Annotated[int, typer.Option(help="tau of streaming, in steps.")] = PROTOCOL.tau,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say which share of the chips' time is useful when chips fail and come back.

    Where there is a syncer, the cores of production decide, and only merged work is useful.
    """
    asked = (mtbi_years, days, seed, fragments, overlap)
    run = ChipRun(system, count_of(chips, "--chips"), learners, *asked)
    with progress_to_stderr("simulating") as progress:
        result = measure(run, progress=progress)
    if plot is not None:
        from atoll.cli.simulate.chips_charts import draw_goodput

        draw_goodput(result, plot)
    if as_json:
        print_json(describe(result))
    else:
        show(page(), result)


def describe(result: Goodput) -> dict[str, Any]:
    """The result with the name of its command."""
    return {"command": "simulate goodput", **result.as_dict()}


def show(console: Console, result: Goodput) -> None:
    """A table for people, and the settings that made it."""
    run = result.run
    parts = "" if run.system in SINGLE else f" of {run.learners} learners"
    table = Table(title=f"{SYSTEMS[run.system]}{parts}, {run.chips:,} chips", title_justify="left")
    table.add_column("")
    table.add_column("%", justify="right")
    table.add_column("")
    table.add_row("goodput", _percent(result.goodput), "useful share of all chip time")
    for name, share in (("pauses", result.paused), ("absence", result.absent)):
        table.add_row(f"  lost to {name}", f"{100 * share:.1f}", LOSSES[name])
    if result.waited > 0:
        table.add_row("  lost to waiting", f"{100 * result.waited:.1f}", LOSSES["waiting"])
    table.add_row("uptime", _percent(result.uptime), "time in which somebody steps")
    if run.system not in SINGLE:
        what = "learners merged / live, per round"
        table.add_row("participation", _percent(result.participation), what)
    console.print(table)
    merges = "" if run.system in SINGLE else f", {result.merges:,} merges"
    console.print(
        f"{result.failures:,} failures{merges} in {result.span_s / 86400:.2f} simulated days; "
        f"failures per chip and year: {1 / run.mtbi_years:g}; seed {run.seed}"
    )


LOSSES = {
    "pauses": "detecting, scaling down and up, restarting",
    "absence": "slices that are away",
    "waiting": "for other learners",
}


def _percent(share: Share) -> str:
    return f"{100 * share.mean:.2f} ± {100 * share.se:.2f}"
