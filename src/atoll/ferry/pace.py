"""A cap on what leaves this island, shared by all its connections.

A bucket of tokens in bytes: bulk that would fill the queue in front of a thin link would make
heartbeats stand in it. Must never hold a lock while it waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_S = 0.05


class Pace:
    """`max_mbit_s` of 0: no cap."""

    def __init__(
        self,
        max_mbit_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ):
        self.bytes_per_s = max_mbit_s * 1e6 / 8
        self._now = now
        self._wait = wait
        self._free_at_s = now()
        self._lock = threading.Lock()

    def slice_bytes(self, most: int) -> int:
        """How much to send at once: little on a thin link."""
        if self.bytes_per_s <= 0:
            return most
        return max(4096, min(most, int(self.bytes_per_s * BURST_S)))

    def take(self, num_bytes: int) -> None:
        """Wait until so many bytes may leave."""
        if self.bytes_per_s <= 0:
            return
        with self._lock:
            now_s = self._now()
            start_s = max(self._free_at_s, now_s - BURST_S)
            self._free_at_s = start_s + num_bytes / self.bytes_per_s
        if start_s > now_s:
            self._wait(start_s - now_s)
