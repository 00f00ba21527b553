"""How many took part: what the status said at each look, kept for the report and the picture.

The syncer counts since it was started or since what it read back, so differences are taken within
an epoch. Must never divide what two processes counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

COUNTS = ("merges", "thin", "learners_merged", "learners_live")


@dataclass(frozen=True, slots=True)
class Look:
    """Who was there at one look, and what had been counted since the storm began."""

    at_s: float
    registered: int
    live: int
    merges: int
    learners_merged: int
    learners_live: int
    trained: int
    loss: float


@dataclass(slots=True)
class Census:
    """`look` at each status; `counts` are sums over the epochs since `begin`."""

    looks: list[Look] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    _epoch: int = 0
    _last: dict[str, int] = field(default_factory=dict)
    _refused: dict[int, dict[str, int]] = field(default_factory=dict)

    def look(self, at_s: float, status: dict[str, Any], loss: float) -> None:
        """One status, and when it was had."""
        coordinator = status.get("coordinator")
        if coordinator is None:
            return
        now = _tallies(status)
        epoch = int(status["epoch"])
        if epoch == self._epoch:
            for name in COUNTS:
                self.counts[name] += max(0, now[name] - self._last[name])
        self._epoch, self._last = epoch, now
        self._refused[epoch] = dict(status.get("counts", {}).get("refused", {}))
        look = Look(
            round(at_s, 2),
            int(coordinator["registered"]),
            int(coordinator["live"]),
            self.counts["merges"],
            self.counts["learners_merged"],
            self.counts["learners_live"],
            int(coordinator["trained"]),
            loss,
        )
        if not self.looks or look.at_s > self.looks[-1].at_s:
            self.looks.append(look)

    @property
    def participation(self) -> float:
        """Learners merged over learners live, over all rounds that were seen."""
        return self.counts["learners_merged"] / max(1, self.counts["learners_live"])

    def all_refused(self) -> dict[str, int]:
        """What the syncer's processes refused, by code."""
        result: dict[str, int] = {}
        for counts in self._refused.values():
            for code, count in counts.items():
                result[code] = result.get(code, 0) + count
        return dict(sorted(result.items()))


def _tallies(status: dict[str, Any]) -> dict[str, int]:
    result = dict.fromkeys(COUNTS, 0)
    for shard in status.get("shards", {}).values():
        for name in COUNTS:
            result[name] += int(shard["tally"][name])
    return result
