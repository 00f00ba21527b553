"""Paired differences with 95 % intervals: what several seeds say, and what they do not.

Two things are drawn by chance: the seed (weights, order of data, pace) and the held-out text. The
interval holds both: Student's over the seeds' differences, and over those in stretches of the text,
added as independent errors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, hypot, inf, isfinite, sqrt

_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Two-sided 95 % quantiles of Student's t for 1 to 20 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, as a share of the reference, and its interval's half."""

    share: float
    half: float
    num_pairs: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return isfinite(self.half) and abs(self.share) > self.half

    def words(self) -> str:
        """For a table: percent with interval, or that it is not resolved."""
        if not isfinite(self.share):
            return "diverged"
        figure = f"{100 * self.share:+.2f} %"
        if not isfinite(self.half):
            return f"{figure} (one seed)"
        verdict = "" if self.resolved else ", not resolved"
        return f"{figure} ± {100 * self.half:.2f}{verdict}"

    def short(self) -> str:
        """As `words`, for a narrow table: a question mark where it is not resolved."""
        if not isfinite(self.share):
            return "diverged"
        if not isfinite(self.half):
            return f"{100 * self.share:+.2f} %"
        return f"{100 * self.share:+.2f} ± {100 * self.half:.2f} %{'' if self.resolved else ' ?'}"


def paired_difference(
    values: Sequence[float],
    reference: Sequence[float],
    by_stretch: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> Difference:
    """How far `values` lie above `reference`, pair by pair, relative to the pair's reference.

    `by_stretch` has the same pairs in each stretch of the text.
    """
    assert len(values) == len(reference) > 0, "pairs come in twos"
    shares = _shares(values, reference)
    if not all(isfinite(share) for share in shares):
        return Difference(inf, inf, len(shares))
    places = [mean(_shares(mine, others)) for mine, others in by_stretch]
    half = hypot(half_interval(shares), half_interval(places) if places else 0.0)
    return Difference(mean(shares), half, len(shares))


def _shares(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    return [value / other - 1 for value, other in zip(values, reference, strict=True)]


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean; infinite for a single value."""
    count = len(values)
    if count < 2:
        return inf
    middle = mean(values)
    variance = fsum((value - middle) ** 2 for value in values) / (count - 1)
    quantile = _T_95[count - 2] if count - 2 < len(_T_95) else 2.0
    return quantile * sqrt(variance / count)


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return fsum(values) / len(values)
