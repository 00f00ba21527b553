"""The control connection: one WebSocket, kept by two threads of its own.

One thread connects and receives, the other sends what lies in the outbox; so neither a peer that
does not read nor one that does not speak can hold up the ferry. Frames for a connection that is
gone are dropped: beats repair that. Must never reconnect by itself: the core asks for it. Pauses
between tries grow and are jittered, so that learners do not come back all at once. Where there are
several addresses they are tried in turn, with a pause after each time round.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from atoll.access.addresses import Address
from atoll.ferry.bulk import ask_for_bbr, break_off
from atoll.ferry.door import Door
from atoll.ferry.forks import keep_from_children

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0
HOP_S = 0.02
"""Pause before the next one of several addresses."""
PING_S = 10.0
"""Without an answer to a ping for so long the connection is given up; sooner where there is
another address to go to, since the syncer may sleep here and serve there."""
MOST_WAITING = 4096
FRAME_BYTES = 1 << 24
"""A frame of the syncer may name every learner that was ever merged."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """A thread of the ferry met what it did not expect."""

    cause: BaseException


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """The connection stands."""

    turn: int


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The connection is gone, or could not be had."""

    turn: int
    why: str
    stood: bool


@dataclass(frozen=True, slots=True)
class FrameCame:
    """The syncer said something."""

    turn: int
    text: str | bytes


class ControlLink:
    """`tell` takes the records above, from the link's own threads."""

    def __init__(self, door: Door, tell: Callable[[object], None]):
        self.door = door
        self._tell = tell
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._connection: ClientConnection | None = None
        self._threads: list[threading.Thread] = []
        self._pause_s = 0.0
        self._failed = 0
        self._turn = 0

    # ------------------------------------------------------------ in the ferry

    def ask(self) -> None:
        """Connect, unless that is done or under way."""
        self._asked.set()
        if not self._threads:
            for task in (self._keep, self._send):
                thread = threading.Thread(
                    target=self._guarded, args=(task,), name="atoll-control", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def send(self, frame: str) -> None:
        """Leave a frame for the sender; a connection that takes none is given up."""
        if self._outbox.qsize() > MOST_WAITING:
            self._abandon()
        self._outbox.put(frame)

    def close(self, limit_s: float) -> None:
        """Send what waits, close, and end the threads within the limit."""
        self._closing.set()
        self._asked.set()
        self._outbox.put(None)
        for thread in reversed(self._threads):
            thread.join(limit_s)
        self._abandon()

    # ------------------------------------------------------------ in the link's own threads

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  # the edge of a thread: the ferry must hear of it
            self._tell(Crashed(error))

    def _keep(self) -> None:
        while True:
            self._asked.wait()
            if self._closing.is_set():
                return
            is_round = self._failed % len(self.door.addresses) == 0
            pause_s = self._pause_s if is_round else HOP_S
            if self._closing.wait(pause_s * (0.5 + random.random())):
                return
            self._asked.clear()
            self._turn += 1
            self._tell(self._one_connection(self._turn))

    def _one_connection(self, turn: int) -> LinkLost:
        """From opening to its end."""
        where, addresses = self.door.where, self.door.addresses
        if self._failed % len(addresses) == 0:
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
        place, stood = where.place, False
        try:
            with self._open(addresses[place]) as connection:
                stood, self._pause_s, self._failed = True, FIRST_PAUSE_S, 0
                where.stands(place)
                self._serve(connection, turn)
        except (OSError, WebSocketException, EOFError) as error:
            self._failed += not stood
            where.lost(place, len(addresses))
            return LinkLost(turn, f"{addresses[place]}: {_words(error)}", stood)
        raise AssertionError("a connection ends with an exception")

    def _serve(self, connection: ClientConnection, turn: int) -> None:
        """Hand over what is received, until the connection is gone."""
        keep_from_children(connection.socket)
        ask_for_bbr(connection.socket)
        self._connection = connection
        try:
            self._tell(LinkOpened(turn))
            while True:
                self._tell(FrameCame(turn, connection.recv()))
        finally:
            self._connection = None
            _drop(connection)

    def _open(self, address: Address) -> AbstractContextManager[ClientConnection]:
        scheme = "ws" if self.door.tls is None else "wss"
        ping_s = PING_S / len(self.door.addresses)
        return connect(
            f"{scheme}://{address}{self.door.path('control')}",
            ssl=self.door.control_tls,
            additional_headers=self.door.headers(),
            proxy=f"http://{self.door.proxy}" if self.door.proxy else None,
            compression=None,
            open_timeout=self.door.connect_s,
            ping_interval=ping_s / 2,
            ping_timeout=ping_s,
            close_timeout=1.0,
            max_size=FRAME_BYTES,
        )

    def _send(self) -> None:
        while (frame := self._outbox.get()) is not None:
            connection = self._connection
            if connection is None:
                continue
            with suppress(ConnectionClosed, OSError):
                connection.send(frame)
        connection = self._connection
        if connection is not None:
            with suppress(WebSocketException, OSError):
                connection.close()

    def _abandon(self) -> None:
        """Close the socket below: whoever reads or writes wakes up at once."""
        connection = self._connection
        if connection is not None:
            _drop(connection)


def _drop(connection: ClientConnection) -> None:
    break_off(connection.socket)
    with suppress(OSError):
        connection.socket.close()


def _words(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode(errors="replace")[:500]
        return f"refused with {error.response.status_code} {body}".strip()
    return str(error) or type(error).__name__
