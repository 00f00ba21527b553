"""`atoll simulate grid`: goodput by system and number of chips, published figures beside ours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.cli.simulate.progress import progress_to_stderr
from atoll.simulator.chips.grid import CHIPS, PUBLISHED, ROWS, Cell, cells, name_of
from atoll.simulator.chips.grid import worst_difference as worst_of
from atoll.simulator.chips.settings import SINGLE

AIM = 0.03
"""Ours and the published goodput may differ by so much."""


def grid(
    days: Annotated[float, typer.Option(help="Simulated days a cell; 0: seconds' worth.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Draws everything.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare goodput of five systems on 150k to 2.4M chips, beside what was published."""
    with progress_to_stderr("simulating the grid") as progress:
        found = list(cells(days, seed, progress))
    if plot is not None:
        from atoll.cli.simulate.chips_charts import draw_grid

        draw_grid(found, plot)
    if as_json:
        print_json(describe(found))
    else:
        show(page(), found)


def describe(found: list[Cell]) -> dict[str, Any]:
    """All cells as plain values."""
    return {
        "command": "simulate grid",
        "cells": [cell.as_dict() for cell in found],
        "worst_difference": worst_of(found),
        "aim": AIM,
        "num_published": len(PUBLISHED),
    }


def show(console: Console, found: list[Cell]) -> None:
    """A table for people."""
    title = "goodput in % by number of chips (published, difference in points)"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for chips in CHIPS:
        table.add_column(f"{chips / 1000:,.0f}k", justify="right", no_wrap=True)
    by_place = {(cell.row, cell.chips): cell for cell in found}
    for row in ROWS:
        name = row[0] if row[0] in SINGLE else f"{row[0]} M={row[1]}"
        table.add_row(name, *(_words(by_place[row, chips]) for chips in CHIPS))
    console.print(table)
    worst = 100 * worst_of(found)
    console.print(f"largest difference from {len(PUBLISHED)} published cells: {worst:.1f} points")
    low = min((c for c in found if c.row[0] == "decoupled"), key=lambda c: c.result.uptime.mean)
    uptime = f"{100 * low.result.uptime.mean:.2f} %"
    console.print(
        f"lowest uptime of a decoupled cell: {uptime} ({name_of(low.row)}, {low.chips:,})"
    )


def _words(cell: Cell) -> str:
    ours = f"{100 * cell.result.goodput.mean:.1f}"
    if math.isnan(cell.published):
        return ours
    published = f"({100 * cell.published:.0f}, {100 * cell.difference:+.1f})"
    return f"[bold]{ours}[/]\n{published}"
