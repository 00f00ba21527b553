"""A notice to leave: SIGTERM before a spot machine is taken away, for a loop that asked to hear it.

The handler notes when the notice came and does nothing else: `step()` says from then on that the
loop is to end, and `close` hands in what is there within what is left of the stated time. A second
notice ends the process at once, as if nobody listened. Must never be set up unasked.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

from atoll.learner.errors import JoinError

RESERVE_S = 5.0
"""Of the stated time, at most half, and at most so much, is kept for saying goodbye and for the
end of the process: an interpreter that has torch in it takes a while to go."""


def refuse_elsewhere(signals: Sequence[signal.Signals]) -> None:
    """Python lets only the main thread listen to signals; find that out before joining."""
    if signals and threading.current_thread() is not threading.main_thread():
        raise JoinError("leave_on needs join() in the main thread: join there, or leave it empty")


class Notice:
    """Given once by a signal; `listen` and `forget` in the main thread."""

    def __init__(self) -> None:
        self.name = ""
        """The signal; empty while there was none."""
        self._given_s = 0.0
        self._before: dict[signal.Signals, object] = {}

    @property
    def is_given(self) -> bool:
        """This learner is to leave."""
        return bool(self.name)

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        """From now on these signals are notices."""
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)

    def forget(self) -> None:
        """The signals mean what they meant before; left as they are in another thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned

    def left_s(self, leave_s: float) -> float:
        """What is left of the stated time."""
        return max(0.0, self._given_s + leave_s - time.monotonic())

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.is_given:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._given_s, self.name = time.monotonic(), signal.Signals(number).name
