"""One row per method: losses over its seeds, the paired difference, time, bytes and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from atoll.compare.statistics import Difference, mean, paired_difference
from atoll.simulator.training import TrainingResult


@dataclass(frozen=True, slots=True)
class Row:
    """A method's results by seed, beside those of the reference with the same seeds."""

    name: str
    results: Mapping[int, TrainingResult]
    difference: Difference | None
    """To the reference; None where no seed is shared."""

    @property
    def num_seeds(self) -> int:
        """Seeds that are done."""
        return len(self.results)

    def mean_of(self, field: str) -> float:
        """The mean of one figure over the seeds."""
        return mean([float(getattr(result, field)) for result in self.results.values()])

    def plain(self) -> dict[str, Any]:
        """For JSON; a loss that is not finite is null."""
        found: dict[str, Any] = {"method": self.name, "seeds": sorted(self.results)}
        for field in FIELDS:
            value = self.mean_of(field)
            found[field] = value if isfinite(value) else None
        found["losses"] = [
            each.loss if isfinite(each.loss) else None for _, each in sorted(self.results.items())
        ]
        if self.difference is not None:
            figures = (self.difference.share, self.difference.half)
            found["difference"], found["half_interval"] = (
                each if isfinite(each) else None for each in figures
            )
            found["resolved"] = self.difference.resolved
        return found


FIELDS = (
    "loss",
    "trained_tokens",
    "merged_tokens",
    "time_s",
    "goodput",
    "participation",
    "up_bytes",
    "down_bytes",
    "merges",
)


def rows(
    results: Mapping[str, Mapping[int, TrainingResult]], references: Mapping[str, str] | str
) -> list[Row]:
    """A row for every method with results, compared with the reference seed by seed.

    `references` names one for all, or one for each row.
    """
    found = []
    for name, by_seed in results.items():
        if by_seed:
            other = references if isinstance(references, str) else references[name]
            found.append(Row(name, by_seed, _difference(by_seed, results.get(other, {}))))
    return found


def _difference(
    mine: Mapping[int, TrainingResult], others: Mapping[int, TrainingResult]
) -> Difference | None:
    shared = sorted(set(mine) & set(others))
    if not shared or mine is others:
        return None
    ours, theirs = [mine[seed] for seed in shared], [others[seed] for seed in shared]
    return paired_difference(
        [each.loss for each in ours], [each.loss for each in theirs], _by_stretch(ours, theirs)
    )


def _by_stretch(
    ours: Sequence[TrainingResult], theirs: Sequence[TrainingResult]
) -> list[tuple[list[float], list[float]]]:
    """The last losses of all seeds in each stretch of the text, where all have them."""
    known = [each.looks[-1].by_stretch if each.looks else () for each in (*ours, *theirs)]
    if len({len(each) for each in known}) != 1:
        return []
    mine, others = known[: len(ours)], known[len(ours) :]
    return [
        ([each[place] for each in mine], [each[place] for each in others])
        for place in range(len(known[0]))
    ]


def megabytes(num_bytes: float) -> str:
    """Bytes for people."""
    return f"{num_bytes / 1e6:,.1f}" if num_bytes < 1e8 else f"{num_bytes / 1e6:,.0f}"


def words(row: Row) -> Sequence[str]:
    """The cells of a row, for people, under `HEADINGS`."""
    loss = row.mean_of("loss")
    return (
        row.name,
        f"{loss:.4f}" if isfinite(loss) else "diverged",
        "" if row.difference is None else row.difference.short(),
        f"{100 * row.mean_of('merged_tokens') / row.mean_of('trained_tokens'):.1f} %",
        f"{row.mean_of('time_s'):,.0f}",
        f"{100 * row.mean_of('goodput'):.1f} %",
        f"{megabytes(row.mean_of('up_bytes'))} / {megabytes(row.mean_of('down_bytes'))}",
    )


HEADINGS = ("", "loss", "difference", "merged", "time, s", "goodput", "MB up / down")


def summary(found: Sequence[Row]) -> str:
    """What all rows have in common, in a sentence."""
    seeds = max(row.num_seeds for row in found)
    tokens = max(row.mean_of("trained_tokens") for row in found)
    return f"{tokens:,.0f} trained tokens, {seeds} seed{'s' if seeds > 1 else ''}"


def footnote(found: Sequence[Row]) -> str:
    """What the differences are to be read with."""
    differences = [row.difference for row in found if row.difference is not None]
    if any(isfinite(each.half) and not each.resolved for each in differences):
        return "? not resolved: the 95 % interval of the paired differences includes zero"
    if any(each.num_pairs == 1 for each in differences):
        return "one seed: small differences may be noise; several seeds give intervals"
    return ""
