"""The tape of a learner's core, kept by the ferry's thread where a folder is named for it.

What is buffered is written about once a second; a killed process loses no more than that, and a
replay accepts the torn end. A tape that cannot be written says so once, and the ferry goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from atoll.core.effects import Effect
from atoll.core.learner import LearnerCore
from atoll.tape.format import Header
from atoll.tape.record import TapeWriter

FLUSH_S = 1.0

log = logging.getLogger("atoll.learner")


class FerryTape:
    """Records one core; does nothing where no folder was named."""

    def __init__(self, root: Path | None, core: LearnerCore, process: str):
        self._writer: TapeWriter | None = None
        self._flushed_s = 0.0
        if root is not None:
            header = Header(
                party=core.state.name,
                role="learner",
                settings=core.settings,
                layout=core.layout,
                process=process,
            )
            self._writer = TapeWriter(root, header, core)

    def open(self) -> None:
        """Begin, before the core's first event."""
        if self._writer is not None:
            self._say(self._writer.open())

    def record(self, now_s: float, event: object, effects: Sequence[Effect]) -> None:
        """One event, and what it led to."""
        if self._writer is None:
            return
        self._say(self._writer.record(now_s, event, effects))
        if time.monotonic() > self._flushed_s + FLUSH_S:
            self._flushed_s = time.monotonic()
            self._say(self._writer.flush())

    def close(self) -> None:
        """End it properly."""
        if self._writer is not None:
            self._say(self._writer.close())

    def _say(self, reason: str) -> None:
        if reason:
            log.error("%s", reason)
