"""Threads for what must not be done on an event loop: hashing, fsync, decoding, merging.

One thread writes the coordinator's records, so that they stay in order; snapshots have one of
their own, so that they hold nothing up.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

BULK_THREADS = 4


@dataclass(frozen=True)
class Workers:
    """The pools, and the event that ends waits inside of them."""

    bulk: Executor
    merge: Executor
    persist: Executor
    snapshot: Executor
    stopping: threading.Event = field(default_factory=threading.Event)

    def finish(self) -> None:
        """What is under way is finished; nothing new begins."""
        self.stopping.set()
        for pool in (self.bulk, self.merge, self.persist, self.snapshot):
            pool.shutdown(wait=True)


def make_workers(merge_threads: int) -> Workers:
    """Threads begin when they get work."""
    return Workers(
        ThreadPoolExecutor(BULK_THREADS, "atoll-bulk"),
        ThreadPoolExecutor(merge_threads, "atoll-merge"),
        ThreadPoolExecutor(1, "atoll-persist"),
        ThreadPoolExecutor(1, "atoll-snapshot"),
    )
