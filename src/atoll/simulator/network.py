"""The made-up network: per island a link that delays, loses, repeats, reorders, and can be cut.

Control messages travel over connections, which a cut link breaks; bulk takes time by its size.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """How an island reaches the syncer. Rates in bytes per second; 0 means no limit."""

    delay_s: float = 0.05
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    up_bytes_s: float = 0.0
    down_bytes_s: float = 0.0
    bulk_s: float = 0.0

    def delays(self, dice: random.Random) -> list[float]:
        """After which delays a control message is delivered: none, once, or more often."""
        if self.loss and dice.random() < self.loss:
            return []
        delays = [self._one(dice)]
        if self.duplicate and dice.random() < self.duplicate:
            delays.append(self._one(dice) + self.delay_s)
        return delays

    def _one(self, dice: random.Random) -> float:
        delay_s = self.delay_s + self.jitter_s * dice.random()
        if self.reorder and dice.random() < self.reorder:
            delay_s += 4 * self.delay_s * dice.random()
        return delay_s


@dataclass(frozen=True, slots=True)
class Island:
    """One learner of a simulated run: its pace, its link, and when it comes."""

    name: str
    step_s: float = 1.0
    step_jitter: float = 0.05
    link: Link = Link()
    joins_at_s: float = 0.0
