"""HTTP handlers that hand inner optimizer state from a donor to its heir, through this memory.

Only what the coordinator asks for at the moment is taken, at most a fixed share of the memory for
contributions, and each fragment goes when its heir has it. A body is looked through before anybody
hears of it: names, shapes and sizes as the layout has them, values are not read. Nothing is kept on
disk. Must never take memory before size and name are known to be right (invariant 6).
"""

from __future__ import annotations

import re
import time

from aiohttp import web

from atoll.core import events as ev
from atoll.core.ids import TransferId
from atoll.fragments import Layout
from atoll.fragments.inner import InnerStateError, contents_of, most_bytes
from atoll.syncer.control_thread import ControlThread
from atoll.syncer.downloads import SLICE_BYTES, send
from atoll.syncer.engine import Engine
from atoll.syncer.errors import RefusedError
from atoll.syncer.intake import PART_BYTES, Parcel, inner_place, num_parts
from atoll.syncer.receiver import Receiver
from atoll.syncer.upload_words import CommitBody, check_sha, fragment_of, part_of
from atoll.wire.shapes import LARGEST

CODEC = "inner"
SHARE = 4
"""One part in so many of the memory for contributions is for inner state."""
_TRANSFER = re.compile(r"([1-9][0-9]{0,15})\.([1-9][0-9]{0,15})\.([1-9][0-9]{0,15})\Z")
_NUMBER = re.compile(r"[1-9][0-9]{0,15}\Z")


class InnerRelay:
    """The handlers, with what they work on; one object for each loop."""

    def __init__(self, engine: Engine, control: ControlThread) -> None:
        self._engine = engine
        self._around = engine.around
        self._in = Receiver(engine, control)

    def routes(self, root: str) -> list[web.RouteDef]:
        """Where they are reached."""
        body = f"{root}/inner/{{transfer}}/{{fragment}}/{{bytes}}"
        return [
            web.put(f"{body}/parts/{{part}}", self.put_part),
            web.get(f"{body}/parts", self.list_parts),
            web.post(f"{body}/commit", self.commit),
            web.get(f"{body}/parts/{{part}}", self.get_part, allow_head=False),
        ]

    async def put_part(self, request: web.Request) -> web.Response:
        """One part of a donor's inner state of a fragment."""
        transfer, index, num_bytes = self._named(request)
        part = part_of(request, num_bytes)
        place = inner_place(transfer, index)
        parcel = self._around.intake.find(place)
        if parcel is None:
            await self._in.ask(self._engine.inner_wanted, transfer, index)
            self._refuse_too_much(num_bytes)
            parcel = self._around.intake.open(place, num_bytes, time.monotonic())
        if parcel.num_bytes != num_bytes:
            text = f"{parcel.num_bytes} bytes are awaited under this name"
            raise RefusedError(409, "conflict", text)
        await self._in.receive(request, parcel, part)
        return web.Response(status=204)

    async def list_parts(self, request: web.Request) -> web.Response:
        """Which parts are here."""
        transfer, index, _ = self._named(request)
        parcel = self._around.intake.find(inner_place(transfer, index))
        return web.json_response({"parts": sorted(parcel.crcs) if parcel else []})

    async def commit(self, request: web.Request) -> web.Response:
        """A fragment's inner state is complete: look through it, and tell the coordinator."""
        transfer, index, _ = self._named(request)
        body = await self._in.commit_body(request)
        parcel = self._around.intake.find(inner_place(transfer, index))
        if parcel is None:
            await self._in.ask(self._engine.inner_wanted, transfer, index)
            raise RefusedError(409, "missing", "no part of this is here: send them first")
        if parcel.sealed:
            return web.Response(status=202)
        self._in.check_commit(parcel, body, CODEC)
        try:
            await self._in.work(self._checked, parcel, body, index)
            self._around.intake.complete(parcel)
            event = ev.InnerArrived(transfer, index, parcel.num_bytes, body.sha256)
            await self._in.ask(self._engine.inner_arrived, event)
        except RefusedError:
            self._around.intake.drop(parcel.place, "", "")
            raise
        return web.Response(status=202)

    async def get_part(self, request: web.Request) -> web.StreamResponse:
        """One part of it, for the heir."""
        transfer, index, num_bytes = self._named(request)
        text = request.match_info["part"]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= number < num_parts(num_bytes):
            raise RefusedError(404, "unknown_path", f"there is no part {text[:40]!r}")
        parcel = self._around.intake.find(inner_place(transfer, index))
        if parcel is None or not parcel.sealed or parcel.num_bytes != num_bytes:
            raise RefusedError(410, "gone", f"inner state {index} of {transfer} is not here")
        with self._around.intake.pinned(parcel):
            part = parcel.body[number * PART_BYTES : (number + 1) * PART_BYTES]
            headers = {"Content-Type": "application/octet-stream", "Cache-Control": "no-store"}
            response = web.StreamResponse(headers=headers)
            response.content_length = part.nbytes
            starts = range(0, part.nbytes, SLICE_BYTES)
            pieces = (part[start : start + SLICE_BYTES] for start in starts)
            await send(request, response, pieces, self._around.counts)
        return response

    # ------------------------------------------------------------ inside

    def _named(self, request: web.Request) -> tuple[TransferId, int, int]:
        """Transfer, fragment and size in the path; the size is one that there can be."""
        index = fragment_of(request, self._in.vault())
        found = _TRANSFER.match(request.match_info["transfer"])
        size = request.match_info["bytes"]
        if found is None or _NUMBER.match(size) is None:
            raise RefusedError(404, "unknown_path", "inner state is named transfer/fragment/bytes")
        heir, donor, attempt = (int(each) for each in found.groups())
        if max(heir, donor, attempt) > LARGEST:
            raise RefusedError(404, "unknown_path", "there is no such transfer")
        most = most_bytes(self._layout(), index)
        if int(size) > most:
            text = f"{int(size)} bytes; inner state of fragment {index} has at most {most}"
            raise RefusedError(413, "size", text)
        return TransferId(heir, donor, attempt), index, int(size)

    def _refuse_too_much(self, num_bytes: int) -> None:
        room = self._around.intake.limit_bytes // SHARE
        if num_bytes > room:
            text = f"{num_bytes} bytes, {room} are for inner state: raise service.memory_bytes"
            raise RefusedError(413, "size", text)
        used = self._around.intake.inner_bytes()
        if used + num_bytes > room:
            text = f"{used} of {room} bytes for inner state are taken: try again"
            raise RefusedError(503, "memory", text, 1)

    def _checked(self, parcel: Parcel, body: CommitBody, index: int) -> None:
        """On a worker: right bytes, and nothing in them that does not belong there."""
        with self._around.intake.pinned(parcel):
            check_sha(parcel, body)
            try:
                contents_of(self._layout(), index, parcel.body)
            except InnerStateError as error:
                raise RefusedError(422, "malformed", str(error)) from error

    def _layout(self) -> Layout:
        return self._in.vault().layout
