"""What every kind of bytes that come in has in common: parts into parcels, commits, and workers.

Used on the loop of whoever asks. Must never take memory before a size is known to be right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from atoll.syncer.control_thread import ControlThread
from atoll.syncer.door import read_body
from atoll.syncer.engine import Engine
from atoll.syncer.errors import RefusedError, starting
from atoll.syncer.intake import Parcel
from atoll.syncer.upload_words import CommitBody, fill
from atoll.syncer.vault import Vault

COMMIT_BYTES = 1 << 16
T = TypeVar("T")


class Receiver:
    """Takes parts and commits for the handlers of uploads."""

    def __init__(self, engine: Engine, control: ControlThread) -> None:
        self._engine = engine
        self._control = control
        self._around = engine.around

    async def receive(
        self, request: web.Request, parcel: Parcel, part: tuple[int, int, int]
    ) -> None:
        """One part into its parcel."""
        index, size, crc = part
        with self._around.intake.pinned(parcel), self._around.intake.scratch(size) as scratch:
            await fill(request, scratch)
            self._around.counts.bytes_in += size
            await self.work(self._around.intake.keep, parcel, index, scratch, crc)
            parcel.touched_s = time.monotonic()

    async def commit_body(self, request: web.Request) -> CommitBody:
        """What a commit says, or a refusal."""
        raw = await read_body(request, COMMIT_BYTES)
        try:
            return msgspec.json.decode(raw, type=CommitBody)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise RefusedError(422, "malformed", f"not a commit: {error}") from error

    def check_commit(self, parcel: Parcel, body: CommitBody, codec: str) -> None:
        """RefusedError unless a commit is of this parcel, and all its parts are here."""
        if body.codec != codec:
            text = f"this run's codec here is {codec}, not {body.codec[:20]!r}"
            raise RefusedError(422, "malformed", text)
        if body.bytes != parcel.num_bytes:
            text = f"{body.bytes} bytes, layout and codec give {parcel.num_bytes}"
            raise RefusedError(413, "size", text)
        missing = parcel.missing
        if missing:
            shown = ", ".join(str(each) for each in missing[:20])
            raise RefusedError(409, "missing", f"{len(missing)} parts are missing: {shown}")

    def vault(self) -> Vault:
        """The run's fragments, once its layout is known."""
        run = self._engine.run
        if run is None:
            raise starting("no learner has brought the layout yet: PUT layout first")
        return run.vault

    async def ask(self, function: Callable[..., T], *args: object) -> T:
        """On the control thread, with the outcome."""
        return await asyncio.wrap_future(self._control.ask(function, *args))

    async def work(self, function: Callable[..., T], *args: object) -> T:
        """On a worker, to its end even if the client goes away: memory is pinned meanwhile."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._around.workers.bulk, function, *args)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


def numel_of(vault: Vault, fragment: int) -> int:
    """Values in a fragment."""
    return vault.mergers[fragment].fragment.numel
