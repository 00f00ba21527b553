"""HTTP handlers beside the data: health, metrics, status, settings, and the layout.

Reading changes nothing. The layout is the one thing taken here: from the first learner, durable
before it counts, and compared afterwards (invariant 5).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from atoll.fragments import Layout, Piece, TensorSpec, first_difference
from atoll.store.errors import DiskFailed, DiskFull
from atoll.syncer.control_thread import ControlThread
from atoll.syncer.door import HEALTH, read_body
from atoll.syncer.engine import Engine
from atoll.syncer.errors import RefusedError
from atoll.syncer.metrics import StatusCollector
from atoll.syncer.recovery import Makings, begin_run, layout_refusal
from atoll.syncer.status import status_of

LAYOUT_BYTES = 64 << 20
T = TypeVar("T")


class _LayoutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layout as it travels; types are checked here, what it means by `Layout`."""

    strategy: str
    tensors: list[TensorSpec]
    fragments: list[list[Piece]]
    frozen: dict[str, str]


class Pages:
    """The handlers, with what they work on."""

    def __init__(self, engine: Engine, control: ControlThread, makings: Makings) -> None:
        self._engine = engine
        self._control = control
        self._makings = makings
        self._layout_lock = threading.Lock()

    def routes(self, root: str) -> list[web.RouteDef]:
        """Where they are reached."""
        return [
            web.get(HEALTH, self.health),
            web.get("/metrics", self.metrics),
            web.get("/api/status", self.status),
            web.get(f"{root}/settings", self.settings),
            web.get(f"{root}/layout", self.get_layout),
            web.put(f"{root}/layout", self.put_layout),
        ]

    async def health(self, _: web.Request) -> web.Response:
        """The process serves: both loops answer."""
        await self._ask(lambda: None)
        return web.json_response({"ok": True})

    async def status(self, _: web.Request) -> web.Response:
        """All cores' status, and why the run waits, as JSON."""
        plain = await self._ask(status_of, self._engine)
        return web.Response(body=msgspec.json.encode(plain), content_type="application/json")

    async def metrics(self, _: web.Request) -> web.Response:
        """The same for Prometheus."""
        plain = await self._ask(status_of, self._engine)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatusCollector(plain))
        body = await self._work(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def settings(self, _: web.Request) -> web.Response:
        """What learners have to follow."""
        run, around = self._engine.run, self._engine.around
        layout = run.vault.fingerprint if run else ""
        plain = around.settings.for_learners(around.keeper.store.epoch, layout)
        return web.Response(body=msgspec.json.encode(plain), content_type="application/json")

    # ------------------------------------------------------------ layout

    async def get_layout(self, _: web.Request) -> web.Response:
        """The run's layout; 404 until somebody has brought it."""
        run = self._engine.run
        if run is None:
            raise RefusedError(404, "no_layout", "no learner has brought the layout yet: PUT it")
        body = await self._work(lambda: msgspec.json.encode(run.vault.layout.to_dict()))
        headers = {"Atoll-Layout": run.vault.fingerprint}
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def put_layout(self, request: web.Request) -> web.Response:
        """201: taken as the run's; 200: it is the run's already; 409: it is another one."""
        raw = await read_body(request, LAYOUT_BYTES)
        is_new = await self._work(self._take_layout, raw)
        return web.Response(status=201 if is_new else 200)

    def _take_layout(self, raw: bytes) -> bool:
        layout = _layout_in(raw)
        with self._layout_lock:
            run = self._engine.run
            if run is not None:
                _compare(run.vault.layout, layout)
                return False
            wrong = layout_refusal(self._makings.settings, layout)
            if wrong:
                raise RefusedError(409, "layout", wrong)
            keeper = self._engine.around.keeper
            try:
                lsn = keeper.layout(layout)
            except (DiskFull, DiskFailed) as error:
                code = "disk_full" if isinstance(error, DiskFull) else "disk_failed"
                raise RefusedError(507, code, str(error), 5) from error
            fresh = begin_run(self._makings, layout, keeper.store.epoch)
            if (tapes := self._makings.tapes) is not None:
                tapes.begin_payloads(layout, self._makings.settings.merge, {})
            self._control.ask(self._engine.begin, fresh, False, lsn).result()
            return True

    async def _ask(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.wrap_future(self._control.ask(function, *args))

    async def _work(self, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine.around.workers.bulk, function, *args)


def _layout_in(raw: bytes) -> Layout:
    try:
        msgspec.json.decode(raw, type=_LayoutBody)
        plain: dict[str, Any] = msgspec.json.decode(raw)
        return Layout.from_dict(plain)
    except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
        raise RefusedError(422, "malformed", f"not a layout: {error}") from error


def _compare(ours: Layout, theirs: Layout) -> None:
    difference = first_difference(ours, theirs)
    if difference is not None:
        raise RefusedError(
            409,
            "layout",
            f"this run has layout {ours.fingerprint()}, yours is {theirs.fingerprint()}: "
            f"{difference} (here: the run, there: you)",
        )
