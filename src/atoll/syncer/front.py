"""One port, two loops: every new connection is looked at once and handed to where it belongs.

Control connections go to the control loop, all others to the bulk loop, so that bulk never stands
before a heartbeat. What a connection is shows in its first bytes, which are looked at and not
taken: the request line, or under TLS the ALPN name `atoll-control` in the client's hello. Where
it does not show (a client that offers no name, a first packet cut in two) the bulk loop serves
it just as well, only not as promptly. Must never decide who may come in: that is the door's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atoll.syncer.control_thread import LoopThread

log = logging.getLogger("atoll.syncer")

CONTROL_ALPN = b"atoll-control"
FIRST_BYTES_S = 10.0
HANDSHAKE_S = 10.0
LOOK_BYTES = 4096
PAUSE_S = 0.1
"""Between two tries to accept when the process is out of descriptors."""
BACKLOG = 512


@dataclass(frozen=True)
class Home:
    """A loop and the HTTP server on it."""

    thread: LoopThread
    protocol: Callable[[], asyncio.BaseProtocol]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError where the address is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    listener = socket.create_server(found[0][4][:2], family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


class Front:
    """Accepts on the control loop."""

    def __init__(
        self, listener: socket.socket, tls: ssl.SSLContext | None, control: Home, bulk: Home
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._control = control
        self._bulk = bulk
        self._placing: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    log.warning("cannot accept a connection: %s", error)
                    await asyncio.sleep(PAUSE_S)
                    continue
                task = loop.create_task(self._place(connection))
                self._placing.add(task)
                task.add_done_callback(self._placing.discard)
        finally:
            for task in list(self._placing):
                task.cancel()
            self._listener.close()

    async def _place(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(FIRST_BYTES_S):
                first = await _look(connection)
        except (TimeoutError, OSError, asyncio.CancelledError):
            connection.close()
            return
        home = self._control if is_control(first) else self._bulk
        home.thread.loop.call_soon_threadsafe(self._hand_over, home, connection)

    def _hand_over(self, home: Home, connection: socket.socket) -> None:
        """On the loop of the connection's new home."""
        task = home.thread.loop.create_task(self._serve(home, connection))
        self._serving.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._serving.discard)

    async def _serve(self, home: Home, connection: socket.socket) -> None:
        handshake: dict[str, Any] = {}
        if self._tls is not None:
            handshake = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S}
        try:
            await home.thread.loop.connect_accepted_socket(home.protocol, connection, **handshake)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.debug("a connection ended in its handshake: %s", error)
            connection.close()


def is_control(first: bytes) -> bool:
    """Whether the first bytes of a connection are those of a control connection."""
    if first[:1] == b"\x16":
        return CONTROL_ALPN in first
    words = first.split(b"\r\n", 1)[0].split(b" ")
    return len(words) == 3 and words[0] == b"GET" and words[1].endswith(b"/control")


async def _look(connection: socket.socket) -> bytes:
    """The first bytes, left where they are."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, ready)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    return connection.recv(LOOK_BYTES, socket.MSG_PEEK)
