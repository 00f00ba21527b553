"""How long the syncer was not reached, and whether that is too long to go on alone.

Counts from the loss of the connection until there is a word again: a new connection that nobody
speaks on is none, and one that stands may be silent (pings find out whether it stands). Told the
time; decides nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER_S = float("inf")


@dataclass(slots=True)
class Solitude:
    """`limit_s`: the longest time alone; 0 for none."""

    limit_s: float
    _since_s: float = NEVER_S
    _why: str = ""

    def heard(self) -> None:
        """The syncer said something."""
        self._since_s = NEVER_S

    def lost(self, now_s: float, why: str) -> None:
        """A connection is gone, or could not be had."""
        self._why = why
        if self._since_s == NEVER_S:
            self._since_s = now_s

    def left_s(self, now_s: float) -> float:
        """Until it is too long."""
        if self.limit_s <= 0 or self._since_s == NEVER_S:
            return NEVER_S
        return max(0.0, self._since_s + self.limit_s - now_s)

    def sentence(self, now_s: float) -> str:
        """Why this learner does not go on; empty while it does."""
        if self.left_s(now_s) > 0:
            return ""
        return (
            f"the syncer was not reached for {now_s - self._since_s:.0f} s, and max_alone_s = "
            f"{self.limit_s:g}: {self._why}; what was trained since the last merge is not handed in"
        )
