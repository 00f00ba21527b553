"""When slices of an island fail, and when they come back.

Failures are a Poisson process per chip; a failed slice is away for a delay drawn from an
exponentiated Weibull distribution. A seed draws everything, whatever is asked and how often.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReturnDelay:
    """An exponentiated Weibull distribution: P(delay <= t) = (1 - exp(-(t / scale)^shape))^power.

    A power above 1 makes short delays rare, a shape below 1 long ones possible. A scale of 0 is a
    spare that takes over at once.
    """

    scale_s: float
    shape: float
    power: float

    def draw_s(self, dice: random.Random) -> float:
        """One delay, by the inverse of the distribution."""
        below = dice.random() ** (1 / self.power)
        return self.scale_s * (-math.log1p(-below)) ** (1 / self.shape) if below < 1 else 0.0

    def mean_s(self) -> float:
        """The mean: the integral of P(delay > t), over steps of equal probability."""
        num = 20_000
        middles = ((each + 0.5) / num for each in range(num))
        quantiles = ((-math.log1p(-(u ** (1 / self.power)))) ** (1 / self.shape) for u in middles)
        return self.scale_s * math.fsum(quantiles) / num


AT_ONCE = ReturnDelay(0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Change:
    """How many slices failed, and how many came back, in a stretch of time."""

    failed: int
    returned: int


class Weather:
    """Failures and returns of one island's slices, in order of time.

    A failure that strikes a slice which is away already changes nothing.
    """

    def __init__(self, num_slices: int, fail_every_s: float, returns: ReturnDelay, seed: str):
        self.num_slices = num_slices
        self.fail_every_s = fail_every_s
        self.returns = returns
        self.num_failures = 0
        self._dice = random.Random(seed)
        self._away: dict[int, None] = {}
        self._coming: list[tuple[float, int]] = []
        self._next_failure_s = 0.0

    def begin(self, at_s: float) -> None:
        """All slices are there at this time; the first failure comes after it."""
        self._away, self._coming = {}, []
        self._next_failure_s = at_s + self._gap_s()

    @property
    def num_present(self) -> int:
        """Slices that are there now."""
        return self.num_slices - len(self._away)

    def next_s(self) -> float:
        """When the next thing happens."""
        return min(self._next_failure_s, self._coming[0][0] if self._coming else math.inf)

    def next_return_s(self) -> float:
        """When the next slice comes back; infinity when none is away."""
        return self._coming[0][0] if self._coming else math.inf

    def until(self, time_s: float) -> Change:
        """Let everything happen up to this time, and say how much it was."""
        failed = returned = 0
        while (at_s := self.next_s()) <= time_s:
            if self._coming and self._coming[0][0] <= self._next_failure_s:
                del self._away[heapq.heappop(self._coming)[1]]
                returned += 1
            else:
                failed += self._fail(at_s)
        self.num_failures += failed
        return Change(failed, returned)

    def _fail(self, at_s: float) -> int:
        self._next_failure_s = at_s + self._gap_s()
        struck = self._dice.randrange(self.num_slices)
        delay_s = self.returns.draw_s(self._dice)
        if struck in self._away:
            return 0
        self._away[struck] = None
        heapq.heappush(self._coming, (at_s + delay_s, struck))
        return 1

    def _gap_s(self) -> float:
        return self._dice.expovariate(1 / self.fail_every_s)
