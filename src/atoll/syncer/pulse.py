"""The syncer's sign of life, and its look at whether the run is still its own.

A thread of its own from the takeover on, since reading a large run back may take longer than a
standby would wait. Must never decide who owns the run (the store's fence does), never wait for a
commit, and never fall silent without a word.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from atoll.store.errors import DiskFailed, Fenced
from atoll.store.heartbeat import STOPPED
from atoll.store.store import Store

BEAT_S = 1.0

log = logging.getLogger("atoll.syncer")


class Pulse:
    """Beats until `stop`; `on_end` hears of a lost run without a merge too, and of any mistake."""

    def __init__(self, store: Store, on_end: Callable[[Exception], None]) -> None:
        self._store = store
        self._on_end = on_end
        self._over = threading.Event()
        self._is_fenced = False
        self._thread = threading.Thread(target=self._run, name="atoll-pulse", daemon=True)

    def start(self) -> None:
        """The first beat is there when this returns."""
        self._store.heartbeat.remove_earlier()
        self._store.heartbeat.beat()
        self._thread.start()

    def stop(self, state: str = STOPPED) -> None:
        """The last beat says why there will be no other; a fenced syncer says nothing."""
        self._over.set()
        self._thread.join()
        if not self._is_fenced:
            self._store.heartbeat.beat(state)

    def _run(self) -> None:
        try:
            while not self._over.wait(BEAT_S):
                self._store.heartbeat.beat()
                self._look()
        except Exception as error:  # noqa: BLE001  # edge of the thread: the service ends with it
            self._is_fenced = isinstance(error, Fenced)
            self._on_end(error)

    def _look(self) -> None:
        try:
            self._store.glance_at_fence()
        except DiskFailed as failed:
            log.warning("cannot see who owns the run: %s", failed)
