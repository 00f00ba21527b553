"""HTTP handlers for bytes that come in: contributions and version 0, in parts, then a commit.

Runs on the bulk loop; hashing, decoding and fsync are the workers'. Must never take memory before
size and name are known to be right, nor answer 202 before the bytes are handed to their shard
(for version 0: durable). Keeps invariants 2 and 6.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from atoll.core.ids import Cut, CutId
from atoll.merge.averaging import PieceSums
from atoll.merge.codecs import decode, encoded_bytes
from atoll.merge.merge import ContributionError
from atoll.store.errors import DiskFailed, DiskFull
from atoll.syncer.control_thread import ControlThread
from atoll.syncer.engine import GONE_CODES, Engine
from atoll.syncer.errors import RefusedError
from atoll.syncer.intake import MERGED, Parcel, Place, num_parts
from atoll.syncer.receiver import Receiver, numel_of
from atoll.syncer.upload_words import (
    CommitBody,
    check_sha,
    cut_in,
    cut_of,
    fragment_of,
    part_of,
)
from atoll.syncer.vault import Vault


class Uploads:
    """The handlers, with what they work on; one object for each loop."""

    def __init__(self, engine: Engine, control: ControlThread) -> None:
        self._engine = engine
        self._control = control
        self._around = engine.around
        self._in = Receiver(engine, control)
        self._commits: dict[Place, asyncio.Lock] = {}

    def routes(self, root: str) -> list[web.RouteDef]:
        """Where they are reached."""
        cut, initial = f"{root}/contributions/{{cut}}/{{fragment}}", f"{root}/initial/{{fragment}}"
        return [
            web.put(f"{cut}/parts/{{part}}", self.put_part),
            web.get(f"{cut}/parts", self.list_parts),
            web.post(f"{cut}/commit", self.commit),
            web.put(f"{initial}/parts/{{part}}", self.put_initial_part),
            web.get(f"{initial}/parts", self.list_initial_parts),
            web.post(f"{initial}/commit", self.commit_initial),
        ]

    # ------------------------------------------------------------ contributions

    async def put_part(self, request: web.Request) -> web.Response:
        """One part of a cut's encoded displacement."""
        vault = self._in.vault()
        cut, fragment = cut_of(request), fragment_of(request, vault)
        num_bytes = encoded_bytes(self._around.settings.uplink, numel_of(vault, fragment))
        index, size, crc = part_of(request, num_bytes)
        place = (str(cut), fragment)
        parcel = self._around.intake.find(place)
        if parcel is None:
            if await self._is_merged(cut, fragment):
                return web.Response(status=204)
            self._around.intake.forget_older(cut.learner, place)
            parcel = self._around.intake.open(place, num_bytes, time.monotonic())
        await self._in.receive(request, parcel, (index, size, crc))
        return web.Response(status=204)

    async def list_parts(self, request: web.Request) -> web.Response:
        """Which parts are here."""
        vault = self._in.vault()
        cut, fragment = cut_of(request), fragment_of(request, vault)
        parcel = self._around.intake.find((str(cut), fragment))
        if parcel is not None:
            return web.json_response({"parts": sorted(parcel.crcs)})
        there: list[int] = []
        if await self._is_merged(cut, fragment):
            numel = numel_of(vault, fragment)
            there = list(range(num_parts(encoded_bytes(self._around.settings.uplink, numel))))
        return web.json_response({"parts": there})

    async def commit(self, request: web.Request) -> web.Response:
        """The cut is complete: check it, and hand it to its shard."""
        vault = self._in.vault()
        named, fragment = cut_of(request), fragment_of(request, vault)
        body = await self._in.commit_body(request)
        cut = cut_in(body, named, fragment)
        place = (str(named), fragment)
        lock = self._commits.setdefault(place, asyncio.Lock())
        try:
            async with lock:
                await self._commit(place, cut, body, vault)
        finally:
            self._commits.pop(place, None)
        return web.Response(status=202)

    async def _commit(self, place: Place, cut: Cut, body: CommitBody, vault: Vault) -> None:
        parcel = self._around.intake.find(place)
        if parcel is None:
            if await self._is_merged(cut.id, cut.fragment):
                return
            raise RefusedError(409, "missing", "no part of this cut is here: send them first")
        if parcel.sealed:
            return
        self._in.check_commit(parcel, body, self._around.settings.uplink)
        try:
            sums = await self._in.work(self._checked, parcel, body, cut, vault)
        except RefusedError as refused:
            if refused.code == "non_finite":
                await self._in.ask(self._engine.arrived, parcel, cut, refused.code)
            self._around.intake.drop(place, "", "")
            raise
        self._around.intake.seal(parcel, cut, sums)
        await self._in.ask(self._engine.arrived, parcel, cut)

    def _checked(self, parcel: Parcel, body: CommitBody, cut: Cut, vault: Vault) -> PieceSums:
        """On a worker: right bytes, finite values. Returns sums that the merge will use."""
        with self._around.intake.pinned(parcel):
            check_sha(parcel, body)
            merger, codec = vault.mergers[cut.fragment], self._around.settings.uplink
            try:
                return merger.sums_of_squares(str(cut.id), codec, parcel.body)
            except ContributionError as error:
                raise RefusedError(422, "non_finite", str(error)) from error

    async def _is_merged(self, cut: CutId, fragment: int) -> bool:
        """Whether a cut whose bytes are gone was merged; RefusedError if it never will be."""
        code, sentence = self._around.intake.fate((str(cut), fragment))
        if not code:
            code, sentence = await self._in.ask(self._engine.upload_fate, cut, fragment)
        if code and code != MERGED:
            raise RefusedError(410 if code in GONE_CODES else 409, code, sentence)
        return code == MERGED

    # ------------------------------------------------------------ version 0

    async def put_initial_part(self, request: web.Request) -> web.Response:
        """One part of a fragment of version 0, in fp32."""
        vault = self._in.vault()
        fragment = fragment_of(request, vault)
        num_bytes = encoded_bytes("fp32", numel_of(vault, fragment))
        part = part_of(request, num_bytes)
        if vault.state(fragment) is not None:
            text = f"version 0 of fragment {fragment} is durable: commit says whether it is yours"
            raise RefusedError(409, "conflict", text)
        place = await self._initial_place(fragment)
        parcel = self._around.intake.open(place, num_bytes, time.monotonic())
        await self._in.receive(request, parcel, part)
        return web.Response(status=204)

    async def list_initial_parts(self, request: web.Request) -> web.Response:
        """Which parts of version 0 of a fragment are here."""
        fragment = fragment_of(request, self._in.vault())
        parcel = self._around.intake.find(await self._initial_place(fragment))
        return web.json_response({"parts": sorted(parcel.crcs) if parcel else []})

    async def commit_initial(self, request: web.Request) -> web.Response:
        """A fragment of version 0 is complete: make it durable."""
        vault = self._in.vault()
        fragment = fragment_of(request, vault)
        body = await self._in.commit_body(request)
        state = vault.state(fragment)
        if state is not None:
            if state.version == 0 and state.published.digest == body.sha256:
                return web.Response(status=202)
            text = f"another version 0 of fragment {fragment} is durable"
            raise RefusedError(409, "conflict", text)
        place = await self._initial_place(fragment)
        parcel = self._around.intake.find(place)
        if parcel is None:
            raise RefusedError(409, "missing", "no part of this fragment is here: send them first")
        self._in.check_commit(parcel, body, "fp32")
        try:
            await self._in.work(self._store_initial, parcel, body, fragment, vault)
        except RefusedError as refused:
            if refused.status == 422:
                self._around.intake.drop(place, "", "")
            raise
        self._around.intake.drop(place, "", "")
        return web.Response(status=202)

    def _store_initial(self, parcel: Parcel, body: CommitBody, fragment: int, vault: Vault) -> None:
        """On a worker, one at a time: the first complete version 0 wins."""
        with self._around.intake.pinned(parcel), self._around.initial_lock:
            if vault.state(fragment) is not None:
                return
            check_sha(parcel, body)
            merger = vault.mergers[fragment]
            theta = decode("fp32", parcel.body, merger.fragment.numel)
            try:
                state = merger.initial(theta)
            except ValueError as error:
                raise RefusedError(422, "non_finite", str(error)) from error
            try:
                lsn = self._around.keeper.initial(fragment, state.published.digest, state.theta)
            except DiskFull as error:
                raise RefusedError(507, "disk_full", str(error), 5) from error
            except DiskFailed as error:
                raise RefusedError(503, "disk_failed", str(error), 5) from error
            self._control.ask(self._engine.initial_stored, fragment, state, lsn).result()

    async def _initial_place(self, fragment: int) -> Place:
        life = await self._in.ask(self._engine.initialiser)
        return (f"initial:{life}", fragment)
