"""The control WebSocket: frames to messages and back, on whichever loop the connection lives.

The first frame is `Hello`, within a deadline. A frame that is not one, or speaks for somebody
else, closes the connection with the reason in the close frame. Must never let such a frame
reach a core.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import WSMsgType, web

from atoll.core import messages as msg
from atoll.syncer.control_thread import ControlThread
from atoll.syncer.engine import Engine
from atoll.syncer.errors import starting
from atoll.syncer.links import GOING_AWAY, REFUSED, Link
from atoll.wire.errors import WireError
from atoll.wire.frames import FROM_LEARNER, LIMIT_BYTES, decode


class ControlSocket:
    """The handler, with what it works on."""

    def __init__(self, engine: Engine, control: ControlThread) -> None:
        self._engine = engine
        self._control = control
        self._service = engine.around.settings.service
        self._silence_s = engine.around.settings.protocol.silence_s

    def routes(self, root: str) -> list[web.RouteDef]:
        """Where it is reached."""
        return [web.get(f"{root}/control", self.control, allow_head=False)]

    async def control(self, request: web.Request) -> web.StreamResponse:
        """One control connection, from hello to its end."""
        if self._engine.run is None:
            raise starting("no learner has brought the layout yet: PUT layout first")
        socket = web.WebSocketResponse(
            max_msg_size=LIMIT_BYTES, compress=False, heartbeat=3 * self._silence_s
        )
        await socket.prepare(request)
        link = Link(socket, request.transport, self._service.queue_bytes)
        writer = asyncio.create_task(link.write())
        why = "the connection broke"
        try:
            why = await self._read(link, socket)
        finally:
            self._control.enter(self._engine.gone, link, why)
            # What is queued still goes out; a far side that does not read gets no more time.
            with suppress(TimeoutError, ConnectionError):
                link.close(GOING_AWAY, why)
                await asyncio.wait_for(writer, 1.0)
        return socket

    async def _read(self, link: Link, socket: web.WebSocketResponse) -> str:
        """Frames until the end; why it came."""
        awaits_hello = True
        while True:
            try:
                async with asyncio.timeout(self._service.hello_s if awaits_hello else None):
                    frame = await socket.receive()
            except TimeoutError:
                return self._refuse(link, "hello", f"no hello within {self._service.hello_s:g} s")
            if frame.type is not WSMsgType.TEXT:
                if frame.type is WSMsgType.BINARY:
                    return self._refuse(link, "malformed", "control frames are text")
                return "the learner closed it" if socket.close_code == 1000 else "it broke"
            try:
                party, message = decode(frame.data, LIMIT_BYTES, FROM_LEARNER)
            except WireError as error:
                return self._refuse(link, error.code, error.sentence)
            if awaits_hello and not isinstance(message, msg.Hello):
                return self._refuse(link, "hello", "the first frame is Hello")
            awaits_hello = False
            if link.closing:
                return link.why
            self._control.enter(self._engine.heard, link, party, message)

    def _refuse(self, link: Link, code: str, sentence: str) -> str:
        self._engine.around.counts.refuse(code)
        link.close(REFUSED, f"{code}: {sentence}")
        return f"{code}: {sentence}"
