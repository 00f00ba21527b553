"""Who trained what when, and what of it was merged: by life of a learner, in its own token count.

Positions come from the reports that the syncer heard, between which a learner is taken to have
gone evenly; merged work from the cuts that went into durable versions. Work counts where it was
trained, not when it was merged, so a window of time has no loose ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from atoll.tape.facts import LifeKey

Span = tuple[int, int]


@dataclass(slots=True)
class Work:
    """`reported` and `merged` in the order of the tapes; then ask."""

    reports: dict[LifeKey, list[tuple[float, int]]] = field(default_factory=dict)
    spans: dict[tuple[LifeKey, int], list[Span]] = field(default_factory=dict)
    """Disjoint and rising, by life and fragment."""

    def reported(self, life: LifeKey, at_s: float, tokens: int) -> None:
        """A life said how far it is."""
        known = self.reports.setdefault(life, [])
        if not known or (tokens > known[-1][1] and at_s >= known[-1][0]):
            known.append((at_s, tokens))

    def merged(self, life: LifeKey, fragment: int, span: Span) -> None:
        """A cut of it is in a durable version."""
        spans = self.spans.setdefault((life, fragment), [])
        first = max(span[0], spans[-1][1] if spans else 0)
        if span[1] > first:
            spans.append((first, span[1]))

    def merged_through(self, life: LifeKey, fragment: int, end: int) -> None:
        """A record says so whose order is not on tape: from where the one before it ended."""
        spans = self.spans.get((life, fragment), [])
        self.merged(life, fragment, (spans[-1][1] if spans else 0, end))

    def position(self, life: LifeKey, at_s: float) -> float:
        """How many tokens it had trained at a time."""
        known = self.reports.get(life, [])
        place = bisect_right(known, at_s, key=lambda each: each[0])
        if place == 0:
            return 0.0
        if place == len(known):
            return float(known[-1][1])
        (from_s, begin), (to_s, end) = known[place - 1], known[place]
        return begin + (end - begin) * (at_s - from_s) / (to_s - from_s)

    def merged_in(
        self, sizes: Sequence[int], begin_s: float, end_s: float, learner: str = ""
    ) -> float:
        """Tokens trained in a window and merged at any time; a mean over fragments by size.

        Of all learners, or of one.
        """
        weighed = 0.0
        for life in self.reports:
            if learner and life[0] != learner:
                continue
            first, stop = self.position(life, begin_s), self.position(life, end_s)
            for fragment, size in enumerate(sizes):
                for low, high in self.spans.get((life, fragment), ()):
                    weighed += size * max(0.0, min(high, stop) - max(low, first))
        return weighed / max(1, sum(sizes))

    def lost(self, life: LifeKey, sizes: Sequence[int]) -> float:
        """What a life that is over had trained since its last merged cuts."""
        known = self.reports.get(life, [])
        trained, weighed = known[-1][1] if known else 0, 0
        for fragment, size in enumerate(sizes):
            spans = self.spans.get((life, fragment), [])
            weighed += size * max(0, trained - (spans[-1][1] if spans else 0))
        return weighed / max(1, sum(sizes))
