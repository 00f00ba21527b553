"""`atoll simulate scavenge`: what extra compute for half of a run is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.cli.simulate.progress import progress_to_stderr
from atoll.simulator.chips.scavenge import PUBLISHED, PUBLISHED_ELASTIC, Scavenged
from atoll.simulator.chips.scavenge import scavenge as simulate


def scavenge(
    extra: Annotated[
        list[float] | None,
        typer.Option(help="Extra compute, 0.5 is +50 %; may be repeated. Default: as published."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws everything.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Tell the training time when extra compute is there for half of the run."""
    wanted = extra or list(PUBLISHED)
    found = []
    with progress_to_stderr("simulating") as progress:
        for number, each in enumerate(wanted):
            found.append(simulate(each, seed))
            progress((number + 1) / len(wanted))
    if plot is not None:
        from atoll.cli.simulate.chips_charts import draw_scavenge

        draw_scavenge(found, plot)
    if as_json:
        print_json(describe(found, seed))
    else:
        show(page(), found)


def describe(found: list[Scavenged], seed: int) -> dict[str, Any]:
    """All results; the fields of a single one at the top, too."""
    document: dict[str, Any] = {"command": "simulate scavenge", "seed": seed}
    if len(found) == 1:
        document |= found[0].as_dict()
    return document | {"results": [each.as_dict() for each in found]}


def show(console: Console, found: list[Scavenged]) -> None:
    """A table for people."""
    title = "training time, as a share of that without extra compute"
    table = Table(title=title, title_justify="left")
    for heading in ("extra", "Decoupled", "ideal", "published", "elastic", "published"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            f"+{100 * each.extra:g} %",
            f"[bold]{each.ours:.3f}[/]",
            f"{each.ideal:.3f}",
            _known(PUBLISHED, each.extra),
            f"{each.elastic:.3f}",
            _known(PUBLISHED_ELASTIC, each.extra),
        )
    console.print(table)
    console.print("elastic data-parallel is a formula with one fitted constant, not a simulation")


def _known(published: dict[float, float], extra: float) -> str:
    return f"{published[extra]:.2f}" if extra in published else ""
