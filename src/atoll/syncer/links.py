"""Control connections: who speaks on which, and frames on their way out.

A link's queue is bounded: whoever does not read is disconnected, with a reason, and costs nobody
else anything. The book of links belongs to the control thread; a link may live on another loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from atoll.core import messages as msg

log = logging.getLogger("atoll.syncer")

REFUSED = 1008
GOING_AWAY = 1001
REASON_BYTES = 120
"""A close frame holds at most 123 bytes of reason."""


class Link:
    """One WebSocket; made on the loop that serves it."""

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, queue_bytes: int
    ) -> None:
        self.socket = socket
        self._transport = transport
        self.learner = ""
        self.process = ""
        self.incarnation = 0
        self.bytes_out = 0
        self._loop = asyncio.get_running_loop()
        self._queue_bytes = queue_bytes
        self._lock = threading.Lock()
        self._queue: deque[str] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self.why = ""

    @property
    def closing(self) -> bool:
        """No frame will go out any more."""
        return self._closing is not None

    def send(self, frame: str) -> None:
        """Queue a frame; from any thread."""
        with self._lock:
            if self._closing is not None:
                return
            self._waiting_bytes += len(frame)
            if self._waiting_bytes <= self._queue_bytes:
                self._queue.append(frame)
                self._call(self._wake.set)
                return
            self._closing = (REFUSED, "too slow")
            self.why = f"too slow: {self._waiting_bytes} bytes of control frames unread"
        self._call(self._abort)

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, say why, close; from any thread."""
        with self._lock:
            if self._closing is not None:
                return
            self._closing, self.why = (code, reason), reason
        self._call(self._wake.set)

    async def write(self) -> None:
        """Send frames until the link closes; a task beside the reader."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                frame = self._queue.popleft()
                await self.socket.send_str(frame)
                with self._lock:
                    self._waiting_bytes -= len(frame)
                    self.bytes_out += len(frame)
            if self._closing is not None:
                code, reason = self._closing
                await self.socket.close(code=code, message=reason.encode()[:REASON_BYTES])
                return

    def _abort(self) -> None:
        """The far side does not read, so it cannot be told: the connection just ends."""
        if self._transport is not None:
            self._transport.abort()

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            log.debug("the loop of a control connection has ended already")


@dataclass
class LinkBook:
    """Who is reached how. Used by the control thread only."""

    links: dict[int, Link] = field(default_factory=dict)
    by_process: dict[tuple[str, str], Link] = field(default_factory=dict)
    present: dict[str, Link] = field(default_factory=dict)

    def greet(self, link: Link, hello: msg.Hello) -> str:
        """A hello came over a link. Returns why it cannot be, or nothing."""
        if link.learner and (link.learner, link.process) != (hello.learner, hello.process):
            return f"this connection is {link.learner}'s"
        link.learner, link.process = hello.learner, hello.process
        self.links[id(link)] = link
        self.by_process[hello.learner, hello.process] = link
        return ""

    def bind(self, welcome: msg.Welcome) -> tuple[Link | None, Link | None]:
        """A learner is welcomed: its link, and the one it had before as the same life."""
        link = self.by_process.get((welcome.learner, welcome.process))
        if link is None:
            return None, None
        before = self.present.get(welcome.learner)
        link.incarnation = welcome.incarnation
        self.present[welcome.learner] = link
        if before is None or before is link or before.incarnation != link.incarnation:
            return link, None
        return link, before

    def reach(self, learner: str, message: object) -> list[Link]:
        """The links that a message to a learner goes to."""
        if isinstance(message, msg.Welcome | msg.Rejected):
            link = self.by_process.get((learner, message.process))
            return [] if link is None else [link]
        if isinstance(message, msg.Replaced):
            return [
                each
                for each in self.links.values()
                if each.learner == learner and 0 < each.incarnation < message.incarnation
            ]
        present = self.present.get(learner)
        return [] if present is None else [present]

    def of_life(self, learner: str, incarnation: int) -> list[Link]:
        """The links of one life."""
        return [
            each
            for each in self.links.values()
            if each.learner == learner and each.incarnation == incarnation
        ]

    def gone(self, link: Link) -> bool:
        """A link has ended. True when its learner is without one now."""
        self.links.pop(id(link), None)
        if self.by_process.get((link.learner, link.process)) is link:
            del self.by_process[link.learner, link.process]
        if self.present.get(link.learner) is link:
            del self.present[link.learner]
            return link.incarnation > 0
        return False
