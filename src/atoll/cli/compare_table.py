"""The table of a comparison, for people: `atoll compare` and `atoll simulate train`."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from atoll.cli.output import page
from atoll.compare.table import HEADINGS, Row, footnote, summary, words


def show_rows(found: Sequence[Row]) -> None:
    """Print the rows; the one without a difference is what the others are compared with."""
    title = f"Held-out loss of the published parameters: {summary(found)}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in found:
        table.add_row(*words(row))
    console = page()
    console.print(table)
    if footnote(found):
        console.print(footnote(found))
