"""The control thread: one event loop for cores and control connections, and the one timer.

Whatever touches the cores runs here. `post` hands a call over and goes on, `ask` gives a future,
`enter` runs at once where the caller is on this thread already. An error inside is a mistake of
ours: it ends the service, for going on might tell what is not so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from atoll.syncer.errors import RefusedError, starting

NEVER = float("inf")
T = TypeVar("T")


class LoopThread:
    """A thread with an event loop of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Run the loop."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop, and wait for it."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()

    @property
    def is_mine(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.get_ident() == self._thread.ident

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())


class ControlThread(LoopThread):
    """The loop thread of the cores, with the one timer."""

    def __init__(self, clock: Callable[[], float], on_fatal: Callable[[Exception], None]) -> None:
        super().__init__("atoll-control")
        self._clock = clock
        self._on_fatal = on_fatal
        self._next_deadline_s: Callable[[], float] = lambda: NEVER
        self._tick: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = NEVER
        self._is_dead = False

    def drive(self, next_deadline_s: Callable[[], float], tick: Callable[[], None]) -> None:
        """Whose deadlines the timer is for."""
        self._next_deadline_s, self._tick = next_deadline_s, tick

    def post(self, function: Callable[..., object], *args: object) -> bool:
        """Have it done on this thread; from anywhere. False when the thread has ended."""
        try:
            self.loop.call_soon_threadsafe(self._guarded, function, args)
        except RuntimeError:
            return False  # the service has stopped: there is nobody left whom it could concern
        return True

    def enter(self, function: Callable[..., object], *args: object) -> None:
        """Now, when the caller is on this thread, else as `post`."""
        if self.is_mine:
            self._guarded(function, args)
        else:
            self.post(function, *args)

    def ask(self, function: Callable[..., T], *args: object) -> Future[T]:
        """As `post`, with the outcome. A refusal is the asker's alone, and ends nothing."""
        future: Future[T] = Future()

        def answer() -> None:
            if self._is_dead:
                future.set_exception(starting("the syncer is stopping after an error"))
            else:
                self._guarded(run, ())

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args))
            except RefusedError as error:
                future.set_exception(error)
            except Exception as error:
                future.set_exception(error)
                raise

        try:
            self.loop.call_soon_threadsafe(answer)
        except RuntimeError:
            future.set_exception(starting("the syncer has stopped"))
        return future

    def _guarded(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._is_dead:
            return
        try:
            function(*args)
            self._arm()
        except Exception as error:  # noqa: BLE001  # edge of the thread: the service ends with it
            self._is_dead = True
            self._on_fatal(error)

    def _arm(self) -> None:
        at_s = self._next_deadline_s()
        if at_s == self._armed_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_s = at_s
        if at_s < NEVER:
            delay_s = max(0.0, at_s - self._clock())
            self._timer = self.loop.call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._timer, self._armed_s = None, NEVER
        self._guarded(self._tick, ())
