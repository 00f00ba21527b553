"""Parts of one body over several connections at once.

The thread that wants the body carries parts too, so a body always gets through, be the other
threads busy or not. Must never leave a part in flight behind: `carry` returns when every thread
has let go of the memory. The first thing that goes wrong ends the whole.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from atoll.ferry.bulk import BulkConnection
from atoll.ferry.errors import FerryError
from atoll.ferry.workers import Workers

PART_BYTES = 4 << 20
CarryPart = Callable[[BulkConnection, int], None]


def num_parts(num_bytes: int) -> int:
    """An empty body is one empty part."""
    return max(1, -(-num_bytes // PART_BYTES))


def part_of(view: memoryview, index: int) -> memoryview:
    """The bytes of one part."""
    return view[index * PART_BYTES : (index + 1) * PART_BYTES]


class PartCarrier:
    """Shares out parts among this thread and those of `workers`."""

    def __init__(self, workers: Workers):
        self.workers = workers

    def carry(self, own: BulkConnection, parts: Sequence[int], carry_part: CarryPart) -> None:
        """Carry every part, or raise what the first failed one raised."""
        work = _Work(parts, carry_part)
        for _ in range(min(len(parts), self.workers.num_threads) - 1):
            self.workers.submit(work.help)
        work.help(own)
        work.wait()


class LoneCarrier:
    """Carries every part itself, one after another: what may take its time, beside what may not."""

    def carry(self, own: BulkConnection, parts: Sequence[int], carry_part: CarryPart) -> None:
        """Carry every part, or raise what the first failed one raised."""
        for part in parts:
            carry_part(own, part)


class _Work:
    def __init__(self, parts: Sequence[int], carry_part: CarryPart):
        self._waiting = deque(parts)
        self._carry_part = carry_part
        self._in_flight = 0
        self._idle = threading.Condition()
        self._error: FerryError | None = None

    def help(self, connection: BulkConnection) -> None:
        """Carry parts until none is left."""
        while (part := self._next()) is not None:
            error: FerryError | None = None
            try:
                self._carry_part(connection, part)
            except FerryError as caught:
                error = caught
            finally:
                self._let_go(error)

    def wait(self) -> None:
        """Until nobody carries any more; each part has the deadline of its socket."""
        with self._idle:
            while self._in_flight:
                self._idle.wait()
        if self._error is not None:
            raise self._error

    def _next(self) -> int | None:
        with self._idle:
            if self._error is not None or not self._waiting:
                return None
            self._in_flight += 1
            return self._waiting.popleft()

    def _let_go(self, error: FerryError | None) -> None:
        with self._idle:
            self._in_flight -= 1
            if error is not None and self._error is None:
                self._error = error
            self._idle.notify_all()
