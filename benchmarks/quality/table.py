"""A table of the quality study: trials by row, and which row each is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from atoll.compare.trial import Trial


@dataclass(frozen=True)
class Table:
    """Rows by label. Differences are to the row `reference`, or to that of the row's group."""

    name: str
    title: str
    rows: Mapping[str, Trial]
    reference: str
    seeds: Sequence[int] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    """Of rows that are compared with another one than `reference`, that one."""
    is_ordered: bool = False
    """Whether the rows are values of one number, in order."""

    @property
    def references(self) -> dict[str, str]:
        """What each row is compared with."""
        return {label: self.groups.get(label, self.reference) for label in self.rows}

    def compared_with(self) -> str:
        """The references in words."""
        names = dict.fromkeys(self.references.values())
        return ", ".join(f"*{name}*" for name in names) + (", each in its group" * (len(names) > 1))

    def trials(self, num_seeds: int) -> list[Trial]:
        """Every row under one seed, then under the next."""
        seeds = self.seeds or range(num_seeds)
        return [
            trial.with_seed(seed)
            for seed in list(seeds)[:num_seeds]
            for trial in self.rows.values()
        ]

    def labels(self, trials: Iterable[Trial]) -> dict[str, str]:
        """The row of each trial, by the trial's key."""
        seeds = sorted({trial.seed for trial in trials})
        return {t.with_seed(s).key: label for label, t in self.rows.items() for s in seeds}
