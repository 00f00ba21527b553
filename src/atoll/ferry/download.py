"""Fetching a published version: as increments over what is held, or in full, in parallel ranges.

Runs in a transfer thread. Sizes follow from layout and codec and are checked before memory is
taken; the digest of the outcome is checked before anybody sees it. A connection that breaks costs
only the range that was on its way. Must never write to the version it starts from.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from dataclasses import dataclass

import torch

from atoll.core.effects import FetchInner
from atoll.ferry.bulk import Answer, BulkConnection, Request
from atoll.ferry.door import Door
from atoll.ferry.errors import FerryError, LinkBrokenError, RefusedError
from atoll.ferry.parts import PART_BYTES, PartCarrier, num_parts, part_of
from atoll.fragments import Layout
from atoll.fragments.inner import most_bytes
from atoll.merge.chain import (
    KEPT_INCREMENTS,
    CatchUp,
    DigestMismatchError,
    FullCopy,
    Increment,
    Published,
    follow,
)
from atoll.merge.codecs import Codec, encoded_bytes

TRIES = 3
_RANGE = re.compile(r"bytes 0-(\d+)/(\d+)\Z")
_NO_VALUES_VERSION = -1


class BadCopyError(FerryError):
    """What came does not have the digest it should: a full copy is needed."""


@dataclass(frozen=True, slots=True)
class _Head:
    version: int
    form: str
    etag: str
    total: int

    @property
    def digest(self) -> str:
        return self.etag.strip('"')


class Downloader:
    """Fetches versions through the connections of a few threads, into kept buffers."""

    def __init__(self, door: Door, carrier: PartCarrier, codec: Codec):
        self.door = door
        self.carrier = carrier
        self.codec = codec
        self._buffers: deque[bytearray] = deque()

    def fetch(
        self, own: BulkConnection, fragment: int, numel: int, base: Published | None
    ) -> Published:
        """The newest version. Raises LinkBrokenError, RefusedError or BadCopyError."""
        for turn in range(1, TRIES + 1):
            try:
                return self._fetch(own, fragment, numel, base)
            except RefusedError as refused:
                # 412: a newer version was published between two ranges of this one.
                if refused.status != 412 or turn == TRIES:
                    raise
        raise AssertionError("the last turn returns or raises")

    def _fetch(
        self, own: BulkConnection, fragment: int, numel: int, base: Published | None
    ) -> Published:
        path = self.door.path("fragments", fragment)
        if base is not None:
            path += f"?base={base.version}"
        buffer = self._take_buffer(encoded_bytes("fp32", numel))  # increments come when fewer
        try:
            view = memoryview(buffer)
            head = self._first_part(own, path, view)
            self._check_size(head, numel, base)
            self._other_parts(own, path, head, view)
            return self._decoded(head, numel, base, view[: head.total])
        finally:
            self._buffers.append(buffer)

    def _first_part(self, own: BulkConnection, path: str, view: memoryview) -> _Head:
        span = {"Range": f"bytes=0-{PART_BYTES - 1}"}
        try:
            answer = _insist(own, Request("GET", path, headers=span), view)
        except RefusedError as refused:
            if refused.status != 416:
                raise
            answer = _insist(own, Request("GET", path), view)
        return _head_of(answer)

    def _check_size(self, head: _Head, numel: int, base: Published | None) -> None:
        if head.form == "full":
            expected = 4 * numel
        else:
            count = head.version - (base.version if base else _NO_VALUES_VERSION)
            if base is None or not 0 <= count <= KEPT_INCREMENTS:
                raise BadCopyError(f"increments to version {head.version} do not start here")
            expected = count * encoded_bytes(self.codec, numel)
        if head.total != expected:
            raise BadCopyError(
                f"version {head.version} is {head.total} bytes as {head.form}, "
                f"expected are {expected}"
            )

    def _other_parts(self, own: BulkConnection, path: str, head: _Head, view: memoryview) -> None:
        def fetch_part(connection: BulkConnection, index: int) -> None:
            part = part_of(view[: head.total], index)
            first = index * PART_BYTES
            headers = {"Range": f"bytes={first}-{first + part.nbytes - 1}", "If-Match": head.etag}
            answer = _insist(connection, Request("GET", path, headers=headers), part)
            if answer.status != 206 or answer.num_bytes != part.nbytes:
                raise LinkBrokenError(f"{answer.num_bytes} bytes came of a part of {part.nbytes}")

        if head.total > PART_BYTES:
            self.carrier.carry(own, range(1, num_parts(head.total)), fetch_part)

    def _decoded(
        self, head: _Head, numel: int, base: Published | None, body: memoryview
    ) -> Published:
        news: CatchUp
        if head.form == "full":
            news = FullCopy(head.version, body, head.digest)
            base = base or _nothing(numel)
        else:
            assert base is not None, "increments have a base"
            if head.version == base.version and head.digest != base.digest:
                raise BadCopyError(f"version {head.version} is held with another digest")
            size = encoded_bytes(self.codec, numel)
            news = tuple(
                Increment(base.version + 1 + i, self.codec, body[i * size : (i + 1) * size], "")
                for i in range(head.version - base.version)
            )
            if news:
                last = news[-1]
                checked = Increment(last.version, last.codec, last.payload, head.digest)
                news = (*news[:-1], checked)
        try:
            return follow(base, news)
        except DigestMismatchError as error:
            raise BadCopyError(str(error)) from error

    def _take_buffer(self, num_bytes: int) -> bytearray:
        """A kept buffer that is large enough: fresh memory costs most of the speed."""
        for _ in range(len(self._buffers)):
            try:
                buffer = self._buffers.popleft()
            except IndexError:
                break
            if len(buffer) >= num_bytes:
                return buffer
        return bytearray(num_bytes)


def fetch_inner(
    door: Door, carrier: PartCarrier, own: BulkConnection, order: FetchInner, layout: Layout
) -> memoryview:
    """A peer's inner state of a fragment, as the syncer has it. Raises as `Downloader.fetch`."""
    if order.size_bytes > most_bytes(layout, order.index):
        raise BadCopyError(f"{order.size_bytes} bytes are more than inner state can have")
    body = memoryview(bytearray(order.size_bytes))
    path = door.path("inner", str(order.transfer), order.index, order.size_bytes, "parts")

    def fetch_part(connection: BulkConnection, index: int) -> None:
        part = part_of(body, index)
        answer = _insist(connection, Request("GET", f"{path}/{index}"), part)
        if answer.num_bytes != part.nbytes:
            raise LinkBrokenError(f"{answer.num_bytes} bytes came of a part of {part.nbytes}")

    carrier.carry(own, range(num_parts(body.nbytes)), fetch_part)
    if hashlib.sha256(body).hexdigest() != order.digest:
        raise BadCopyError("inner state came with another digest than was announced")
    return body


def _insist(connection: BulkConnection, request: Request, into: memoryview) -> Answer:
    """A range again where the connection broke below it."""
    for _ in range(TRIES - 1):
        try:
            return connection.ask(request, into)
        except LinkBrokenError:
            continue
    return connection.ask(request, into)


def _head_of(answer: Answer) -> _Head:
    headers = answer.headers
    total = answer.num_bytes
    if answer.status == 206:
        match = _RANGE.match(headers.get("content-range", ""))
        if match is None or int(match[1]) + 1 != answer.num_bytes:
            raise LinkBrokenError(f"a range came as {headers.get('content-range')!r}")
        total = int(match[2])
    version, form = headers.get("atoll-version", ""), headers.get("atoll-form", "")
    if not version.isdigit() or form not in ("full", "increments"):
        raise LinkBrokenError(f"version {version!r} came in form {form!r}: not Atoll's answer")
    return _Head(int(version), form, headers.get("etag", ""), total)


def _nothing(numel: int) -> Published:
    """A holder of nothing: only the number of values counts, for a full copy."""
    return Published(_NO_VALUES_VERSION, torch.empty(numel, device="meta"), "")
