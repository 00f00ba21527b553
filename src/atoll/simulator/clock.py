"""Virtual time: a heap of what is to happen, in one order for one seed.

Entries at the same instant run by priority, then in the order in which they were scheduled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Time that passes only when something happens."""

    now_s: float = 0.0
    _heap: list[tuple[float, int, int, Callable[[], None]]] = field(default_factory=list)
    _sequence: int = 0
    num_run: int = 0

    def at(self, time_s: float, action: Callable[[], None], priority: int = 0) -> None:
        """Let `action` happen at `time_s`, or now if that has passed."""
        self._sequence += 1
        entry = (max(time_s, self.now_s), priority, self._sequence, action)
        heapq.heappush(self._heap, entry)

    def after(self, delay_s: float, action: Callable[[], None], priority: int = 0) -> None:
        """Let `action` happen after a delay."""
        self.at(self.now_s + delay_s, action, priority)

    def run_until(self, time_s: float) -> None:
        """Let everything happen up to and at `time_s`."""
        while self._heap and self._heap[0][0] <= time_s:
            at_s, _, _, action = heapq.heappop(self._heap)
            self.now_s = at_s
            self.num_run += 1
            action()
        self.now_s = max(self.now_s, time_s)

    def run_one(self) -> bool:
        """Let the next thing happen; False when there is nothing left."""
        if not self._heap:
            return False
        at_s, _, _, action = heapq.heappop(self._heap)
        self.now_s = at_s
        self.num_run += 1
        action()
        return True
