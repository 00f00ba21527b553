"""The goodput grid: systems by numbers of chips, the published cells beside ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from atoll.simulator.chips.goodput import Goodput, measure
from atoll.simulator.chips.settings import SINGLE, SYSTEMS, ChipRun

CHIPS: Final = (150_000, 300_000, 600_000, 1_200_000, 2_400_000)
Row = tuple[str, int]
ROWS: Final[tuple[Row, ...]] = (
    ("none", 1),
    ("elastic", 1),
    ("diloco", 8),
    ("streaming", 8),
    ("decoupled", 2),
    ("decoupled", 4),
    ("decoupled", 8),
    ("decoupled", 16),
)
PUBLISHED: Final[dict[tuple[Row, int], float]] = {
    (("none", 1), 150_000): 0.72,
    (("none", 1), 1_200_000): 0.27,
    (("elastic", 1), 150_000): 0.88,
    (("elastic", 1), 600_000): 0.69,
    (("elastic", 1), 1_200_000): 0.58,
    (("decoupled", 8), 150_000): 0.98,
    (("decoupled", 8), 1_200_000): 0.88,
    (("decoupled", 16), 1_200_000): 0.93,
}
"""Goodput with one interruption per chip and year."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what came out, and what was published (not a number: nothing)."""

    row: Row
    chips: int
    result: Goodput

    @property
    def published(self) -> float:
        """The published goodput."""
        return PUBLISHED.get((self.row, self.chips), math.nan)

    @property
    def difference(self) -> float:
        """Ours less the published goodput."""
        return self.result.goodput.mean - self.published

    def as_dict(self) -> dict[str, Any]:
        """For JSON; published figures only where there are some."""
        result = self.result.as_dict()
        kept = ("goodput", "goodput_se", "uptime", "participation", "merges", "failures")
        document = {"system": self.row[0], "learners": self.row[1], "chips": self.chips}
        document |= {name: result[name] for name in kept}
        document["days"] = result["settings"]["days"]
        if not math.isnan(self.published):
            document |= {"published": self.published, "difference": self.difference}
        return document


def cells(
    days: float = 0.0, seed: int = 0, progress: Callable[[float], None] = lambda _: None
) -> Iterator[Cell]:
    """Simulate cell after cell, row by row."""
    total = len(ROWS) * len(CHIPS)
    for number in range(total):
        row, chips = ROWS[number // len(CHIPS)], CHIPS[number % len(CHIPS)]
        run = ChipRun(row[0], chips, row[1], days=days, seed=seed)
        result = measure(run, progress=partial(_tell, progress, number, total))
        yield Cell(row, chips, result)


def _tell(progress: Callable[[float], None], number: int, total: int, part: float) -> None:
    progress((number + part) / total)


def worst_difference(grid: list[Cell]) -> float:
    """The largest distance from a published cell."""
    return max((abs(c.difference) for c in grid if not math.isnan(c.published)), default=math.nan)


def name_of(row: Row) -> str:
    """How people are told of a row."""
    name = SYSTEMS[row[0]]
    return name if row[0] in SINGLE else f"{name}, M = {row[1]}"
