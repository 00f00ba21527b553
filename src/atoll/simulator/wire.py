"""Bodies on the simulated wire: what they weigh, how long they take, and what passed each way.

A lane carries one body after the other at its rate, so two fragments on their way share a thin
link as they would a real one. Bytes are counted when a body is sent: cut or late bodies count too,
as they do on a real line. Control messages are not counted; they are small and have their own
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.simulator.network import Link


@dataclass(frozen=True, slots=True)
class BodySizes:
    """Bytes of a contribution, of an increment and of a full copy, by fragment."""

    up: tuple[int, ...] = ()
    down: tuple[int, ...] = ()
    full: tuple[int, ...] = ()
    kept_increments: int = 8

    def contribution_bytes(self, fragment: int) -> int:
        """What a learner sends for one cut."""
        return self.up[fragment] if self.up else 0

    def news_bytes(self, fragment: int, base: int, version: int) -> int:
        """What a holder of `base` (-1: of nothing) is sent: increments where they are fewer."""
        if not self.down:
            return 0
        missing = version - base
        increments = missing * self.down[fragment]
        if base < 0 or missing > self.kept_increments:
            return self.full[fragment]
        return min(increments, self.full[fragment])


@dataclass(slots=True)
class Lane:
    """One direction of a link. `window_s` above 0 also counts bytes by windows of that length."""

    bytes_s: float
    window_s: float = 0.0
    num_bytes: int = 0
    num_bodies: int = 0
    windows: dict[int, float] = field(default_factory=dict)
    free_at_s: float = 0.0

    def send(self, now_s: float, num_bytes: int) -> float:
        """Queue a body behind those before it; when its last byte has left."""
        begins_s = max(now_s, self.free_at_s)
        ends_s = begins_s + (num_bytes / self.bytes_s if self.bytes_s else 0.0)
        self.free_at_s = ends_s
        self.num_bytes += num_bytes
        self.num_bodies += 1
        if self.window_s:
            self._spread(begins_s, ends_s, num_bytes)
        return ends_s

    def passed(self, from_s: float, until_s: float) -> list[float]:
        """Bytes in each whole window between two times."""
        first, last = -int(-from_s // self.window_s), int(until_s // self.window_s)
        return [self.windows.get(each, 0.0) for each in range(first, last)]

    def _spread(self, begins_s: float, ends_s: float, num_bytes: int) -> None:
        first, last = int(begins_s // self.window_s), int(ends_s // self.window_s)
        for number in range(first, last + 1):
            start_s = max(begins_s, number * self.window_s)
            stop_s = min(ends_s, (number + 1) * self.window_s)
            share = (stop_s - start_s) / (ends_s - begins_s) if first < last else 1.0
            self.windows[number] = self.windows.get(number, 0.0) + share * num_bytes


class Wire:
    """Both lanes of one island's link, which may change while the run goes on."""

    def __init__(self, link: Callable[[], Link], now_s: Callable[[], float], window_s: float = 0.0):
        self.link = link
        self.now_s = now_s
        self.up = Lane(link().up_bytes_s, window_s)
        self.down = Lane(link().down_bytes_s, window_s)

    def send_up_s(self, num_bytes: int) -> float:
        """How long from now until a body has arrived at the syncer."""
        self.up.bytes_s = self.link().up_bytes_s
        return self._takes_s(self.up, num_bytes)

    def send_down_s(self, num_bytes: int) -> float:
        """How long from now until a body has arrived at the island."""
        self.down.bytes_s = self.link().down_bytes_s
        return self._takes_s(self.down, num_bytes)

    def _takes_s(self, lane: Lane, num_bytes: int) -> float:
        now_s = self.now_s()
        link = self.link()
        return lane.send(now_s, num_bytes) - now_s + link.delay_s + link.bulk_s
