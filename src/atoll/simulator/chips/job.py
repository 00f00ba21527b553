"""One job over all chips, elastic or not: step after step, without a syncer.

Stretches in which nothing fails and nobody returns are passed in one go; the result is that of
going step by step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from atoll.simulator.chips.island import ChipIsland


@dataclass(slots=True)
class Batches:
    """Time in stretches of equal length, and what was done in each."""

    length_s: float
    useful_slice_s: list[float]
    up_s: list[float]

    @staticmethod
    def of(span_s: float, num: int) -> Batches:
        """Nothing was done yet."""
        return Batches(span_s / num, [0.0] * num, [0.0] * num)


@dataclass(slots=True)
class Job:
    """An island that steps by itself. `now_s` is where a step begins."""

    island: ChipIsland
    step_s: float
    fast_forward: bool = True
    now_s: float = 0.0
    useful_slice_s: float = 0.0
    up_s: float = 0.0
    absent_slice_s: float = field(default=0.0)

    def run_until(self, end_s: float) -> None:
        """Let steps begin before this time."""
        while self.now_s < end_s:
            if self.fast_forward:
                self._skip(end_s)
            self._step()

    def _step(self) -> None:
        island = self.island
        active = island.num_active
        end = island.step_ends(self.now_s + self.step_s)
        self._count(1, end.trained, active)
        self.now_s += self.step_s + end.pause_s

    def _skip(self, end_s: float) -> None:
        """Whole steps before the next thing happens, and before the end."""
        until_s = min(self.island.weather.next_s(), end_s)
        num = max(0, math.ceil((until_s - self.now_s) / self.step_s) - 1)
        self._count(num, self.island.num_active, self.island.num_active)
        self.now_s += num * self.step_s

    def _count(self, num: int, trained: int, active: int) -> None:
        self.up_s += num * self.step_s
        self.useful_slice_s += num * self.step_s * trained
        self.absent_slice_s += num * self.step_s * (self.island.num_slices - active)
