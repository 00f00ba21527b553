"""A syncer that is up: two loops with an HTTP server each, the workers, and how they go again.

Everything comes in an order and goes in the opposite one; what a worker has begun becomes durable
before the store is closed, or is never told.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from atoll.access.addresses import Address
from atoll.syncer.control_socket import ControlSocket
from atoll.syncer.control_thread import ControlThread, LoopThread
from atoll.syncer.downloads import Downloads
from atoll.syncer.engine import Engine
from atoll.syncer.front import IDLE_S, Front, Home, Strangers, listen
from atoll.syncer.pages import Pages
from atoll.syncer.recovery import Makings
from atoll.syncer.relay import InnerRelay
from atoll.syncer.taping import Tapes
from atoll.syncer.uploads import Uploads
from atoll.syncer.workers import Workers
from atoll.wire.protocol import ROOT

log = logging.getLogger("atoll.syncer")

GOODBYE_S = 2.0
SWEEP_S = 1.0


class Running:
    """Threads and servers while the service is up."""

    def __init__(
        self,
        engine: Engine,
        control: ControlThread,
        bulk: LoopThread,
        workers: Workers,
        tapes: Tapes | None,
    ) -> None:
        self._tapes = tapes
        self.engine = engine
        self.control = control
        self.bulk = bulk
        self._workers = workers
        self._runners: list[tuple[LoopThread, web.AppRunner]] = []
        self._front: Front | None = None
        self._strangers = Strangers()
        self._sweeping: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ coming

    def serve(self, makings: Makings, middleware: object) -> None:
        """The two HTTP servers, not listening yet. Either serves all, should a connection have
        come to the wrong one.
        """
        root = f"{ROOT}/{{run}}"
        shared = [
            *ControlSocket(self.engine, self.control).routes(root),
            *Pages(self.engine, self.control, makings).routes(root),
            *Downloads(self.engine).routes(root),
        ]
        for thread in (self.control, self.bulk):
            uploads = Uploads(self.engine, self.control).routes(root)
            relay = InnerRelay(self.engine, self.control).routes(root)
            self._add(thread, [*shared, *uploads, *relay], middleware)

    def _add(self, thread: LoopThread, routes: Sequence[web.RouteDef], middleware: object) -> None:
        async def setup() -> web.AppRunner:
            order = [self._strangers.hear, middleware]
            app = web.Application(middlewares=order)  # type: ignore[arg-type]
            app.add_routes(routes)
            app.router.add_route("*", "/{anything:.*}", _nothing_here)
            times: dict[str, Any] = {"shutdown_timeout": GOODBYE_S, "keepalive_timeout": IDLE_S}
            runner = web.AppRunner(app, access_log=None, handle_signals=False, **times)
            await runner.setup()
            return runner

        runner = asyncio.run_coroutine_threadsafe(setup(), thread.loop).result()
        self._runners.append((thread, runner))

    def listen(self, tls: ssl.SSLContext | None) -> Address:
        """Begin to accept."""
        service = self.engine.around.settings.service
        listener = listen(service.host, service.port)
        control, bulk = (Home(thread, _protocol(runner)) for thread, runner in self._runners)
        front = self._front = Front(listener, tls, control, bulk, self._strangers)
        address = Address(service.host, listener.getsockname()[1])

        async def begin() -> None:
            front.open()

        async def sweep() -> None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

        asyncio.run_coroutine_threadsafe(begin(), self.control.loop).result()
        asyncio.run_coroutine_threadsafe(sweep(), self.bulk.loop).result()
        return address

    async def _sweep(self) -> None:
        """Uploads that have stopped are forgotten, and tapes written."""
        around = self.engine.around
        idle_s = around.settings.service.upload_idle_s
        while True:
            await asyncio.sleep(min(SWEEP_S, idle_s / 2))
            if self._tapes is not None:
                self.control.post(self._tapes.flush)
            for place in around.intake.forget_idle(time.monotonic() - idle_s):
                log.info("the upload of %s, fragment %d, has stopped: forgotten", *place)

    # ------------------------------------------------------------ going

    def stop(self, snapshot: bool) -> None:
        """In order; what a worker has begun becomes durable or is never told."""
        if self._sweeping is not None:
            asyncio.run_coroutine_threadsafe(_end(self._sweeping), self.bulk.loop).result()
        if self._front is not None:
            asyncio.run_coroutine_threadsafe(_call(self._front.close), self.control.loop).result()
        self.control.post(self.engine.close_all, "the syncer stops")
        for thread, runner in reversed(self._runners):
            if self._front is not None:
                asyncio.run_coroutine_threadsafe(self._front.settle(thread), thread.loop).result()
            asyncio.run_coroutine_threadsafe(runner.cleanup(), thread.loop).result()
        self._workers.finish()
        if snapshot:
            self.control.ask(self.engine.last_snapshot).result()()
        self.bulk.stop()
        self.control.stop()
        if self._tapes is not None:
            self._tapes.close()  # here, for a control thread that failed does nothing any more
        self.engine.around.keeper.store.close()


async def _call(function: Callable[[], None]) -> None:
    function()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _nothing_here(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def _protocol(runner: web.AppRunner) -> web.Server:
    assert runner.server is not None, "a runner that is set up has a server"
    return runner.server
