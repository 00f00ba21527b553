"""`atoll simulate mixed`: half of the learners slower."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.simulator.chips.mixed import RULES, Mix
from atoll.simulator.chips.mixed import mixed as simulate


def mixed(
    learners: Annotated[int, typer.Option(help="M, an even number.")] = 8,
    slower: Annotated[float, typer.Option(help="More time per step: 0.18 is 18 %.")] = 0.18,
    seed: Annotated[int, typer.Option(help="Draws everything.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Tell what waiting costs the faster half when the other half is slower."""
    mix = Mix(learners, slower, seed)
    found = simulate(mix)
    if plot is not None:
        from atoll.cli.simulate.chips_charts import draw_mixed

        draw_mixed(mix, found, plot)
    if as_json:
        rules = {each.rule: each.as_dict() for each in found}
        document = {"command": "simulate mixed", "settings": asdict(mix), "rules": rules}
        print_json(document | {"published_goodput": mix.published})
        return
    title = f"{learners} learners, half of them {100 * slower:g} % slower"
    table = Table(title=title, title_justify="left")
    for heading in ("rule", "goodput %", "published", "of all learners %", "participation %"):
        table.add_column(heading, justify="right" if heading != "rule" else "left")
    for each in found:
        known = f"{100 * mix.published[each.rule]:.0f}" if mix.published else ""
        shares = [f"{100 * s:.1f}" for s in (each.goodput, each.goodput_all, each.participation)]
        table.add_row(RULES[each.rule], shares[0], known, *shares[1:])
    page().print(table)
    page().print("goodput: share of the faster half's chip time whose work was merged")
