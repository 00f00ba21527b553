"""One port, two loops: every new connection is looked at once and handed to where it belongs.

Control connections go to the control loop, all others to the bulk loop, so that bulk never stands
before a heartbeat. What a connection is shows in its first bytes, which are looked at and not
taken: the request line, or under TLS the ALPN name `atoll-control` in the client's hello. Where
it does not show (a client that offers no name, a first packet cut in two) the bulk loop serves
it just as well, only not as promptly: each loop serves everything. Must never decide who may come
in: that is the door's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from atoll.syncer.control_thread import LoopThread

log = logging.getLogger("atoll.syncer")

CONTROL_ALPN = b"atoll-control"
FIRST_BYTES_S = 10.0
HANDSHAKE_S = 10.0
HEAD_S = 10.0
"""From the handshake until a connection's first request is there; later ones: `IDLE_S`."""
IDLE_S = 30.0
"""A connection on which no request is under way is closed; who comes again opens another."""
LOOK_BYTES = 4096
PAUSE_S = 0.1
"""Between two tries to accept when the process is out of descriptors."""
BACKLOG = 512


@dataclass(frozen=True)
class Home:
    """A loop and the HTTP server on it."""

    thread: LoopThread
    protocol: Callable[[], web.RequestHandler]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError where the address is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    listener = socket.create_server(found[0][4][:2], family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


class Strangers:
    """Connections without a whole request yet: nobody has shown the secret, so they go soon."""

    def __init__(self) -> None:
        self._protocols: set[web.RequestHandler] = set()

    def come(self, protocol: web.RequestHandler) -> None:
        """A connection that has said nothing."""
        self._protocols.add(protocol)

    def go(self, protocol: web.RequestHandler) -> None:
        """The time is over: closed, unless it has sent a request."""
        if protocol in self._protocols:
            self._protocols.discard(protocol)
            protocol.force_close()

    @web.middleware
    async def hear(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """A request is there; whether it may come in is the door's business."""
        self._protocols.discard(request.protocol)
        return await handler(request)


class Front:
    """Accepts on the control loop."""

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        control: Home,
        bulk: Home,
        strangers: Strangers,
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._control = control
        self._bulk = bulk
        self._strangers = strangers
        self._placing: dict[socket.socket, asyncio.Task[None]] = {}
        self._arriving: dict[asyncio.Task[None], Home] = {}
        self._is_closed = False

    def open(self) -> None:
        """Begin to accept; on the control loop. By hand, for a cancelled `sock_accept` may lose a
        connection that it had accepted already.
        """
        self._control.thread.loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept nothing more, and let go of whoever has not shown what it is; on the same loop."""
        self._is_closed = True
        loop = self._control.thread.loop
        loop.remove_reader(self._listener)
        self._listener.close()
        for connection, task in list(self._placing.items()):
            task.cancel()
            loop.remove_reader(connection)
            connection.close()

    def _accept(self) -> None:
        loop = self._control.thread.loop
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it was there and is gone
        except OSError as error:
            log.warning("cannot accept a connection: %s", error)
            loop.remove_reader(self._listener)
            loop.call_later(PAUSE_S, self._accept_again)
            return
        self._placing[connection] = loop.create_task(self._place(connection))

    def _accept_again(self) -> None:
        if not self._is_closed:
            self.open()

    async def _place(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(FIRST_BYTES_S):
                first = await _look(connection)
        except (TimeoutError, OSError):
            del self._placing[connection]
            connection.close()
            return
        del self._placing[connection]
        home = self._control if is_control(first) else self._bulk
        home.thread.loop.call_soon_threadsafe(self._hand_over, home, connection)

    def _hand_over(self, home: Home, connection: socket.socket) -> None:
        """On the loop of the connection's new home."""
        if self._is_closed:
            connection.close()
            return
        task = home.thread.loop.create_task(self._serve(home, connection))
        self._arriving[task] = home
        task.add_done_callback(self._arriving.pop)

    async def settle(self, thread: LoopThread) -> None:
        """When nothing is accepted any more, on each loop: who is in a handshake is let go."""
        arriving = [task for task, home in list(self._arriving.items()) if home.thread is thread]
        for task in arriving:
            task.cancel()
        if arriving:
            await asyncio.wait(arriving)

    async def _serve(self, home: Home, connection: socket.socket) -> None:
        handshake: dict[str, Any] = {}
        if self._tls is not None:
            handshake = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S}
        loop, protocol = home.thread.loop, home.protocol()
        self._strangers.come(protocol)
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection, **handshake)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.debug("a connection ended in its handshake: %s", error)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            loop.call_later(HEAD_S, self._strangers.go, protocol)


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
        if connection.fileno() >= 0:
            loop.remove_reader(connection)
    return connection.recv(LOOK_BYTES, socket.MSG_PEEK)
