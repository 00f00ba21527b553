"""HTTP handler for what goes out: the newest published version of a fragment.

Served as it lies in memory, in slices; nothing is copied, hashed or encoded here. Must never serve
a version that is not durable: the vault holds none; and never wait without end for a reader.
Keeps: whoever asks with `Range` and `If-Match` gets bytes of one version only.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator, Sequence

from aiohttp import web

from atoll.syncer.engine import Engine
from atoll.syncer.errors import RefusedError, starting
from atoll.syncer.surroundings import Counts
from atoll.syncer.vault import News, Vault

log = logging.getLogger("atoll.syncer")

SLICE_BYTES = 1 << 20
SLICE_S = 60.0
"""Whoever takes longer to read a slice is let go; a transfer goes on where it stood."""
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})\Z")
_NUMBER = re.compile(r"[0-9]{1,15}\Z")


class Downloads:
    """The handler, with what it works on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self, root: str) -> list[web.RouteDef]:
        """Where it is reached."""
        return [web.get(f"{root}/fragments/{{fragment}}", self.get_fragment, allow_head=False)]

    async def get_fragment(self, request: web.Request) -> web.StreamResponse:
        """The newest version, over `base` or in full."""
        run = self._engine.run
        if run is None:
            raise starting("no learner has brought the layout yet, so nothing is published")
        news = _news(request, run.vault)
        headers = {
            "ETag": f'"{news.digest}"',
            "Atoll-Version": str(news.version),
            "Atoll-Form": news.form,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Cache-Control": "no-store",
        }
        match = request.headers.get("If-Match")
        if match is not None and match.strip() not in ("*", headers["ETag"]):
            text = f"version {news.version} is the newest now: begin again"
            raise RefusedError(412, "changed", text)
        start, stop, status = _span(request, news.num_bytes)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{news.num_bytes}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = stop - start
        pieces = _slices(news.body, start, stop)
        await send(request, response, pieces, self._engine.around.counts)
        return response


async def send(
    request: web.Request,
    response: web.StreamResponse,
    pieces: Iterable[memoryview],
    counts: Counts,
) -> None:
    """A body, as fast as it is read; the connection is cut where it is not."""
    await response.prepare(request)
    try:
        for piece in pieces:
            async with asyncio.timeout(SLICE_S):
                await response.write(piece)
            counts.bytes_out += piece.nbytes
    except TimeoutError:
        log.info("%s does not read what it asked for: cut off", request.remote)
        if request.transport is not None:
            request.transport.abort()
        return
    await response.write_eof()


def _news(request: web.Request, vault: Vault) -> News:
    text = request.match_info["fragment"]
    if not _NUMBER.match(text) or int(text) >= len(vault.mergers):
        raise RefusedError(404, "unknown_path", f"there is no fragment {text[:40]!r}")
    base = request.query.get("base")
    if base is not None and not _NUMBER.match(base):
        raise RefusedError(422, "malformed", f"base {base[:40]!r} is not a version")
    try:
        news = vault.news(int(text), None if base is None else int(base))
    except ValueError as error:
        raise RefusedError(409, "unknown_base", str(error)) from error
    if news is None:
        raise starting(f"version 0 of fragment {int(text)} is not durable yet")
    return news


def _span(request: web.Request, num_bytes: int) -> tuple[int, int, int]:
    """First byte, one past the last, and the status. An unknown form of Range is passed over."""
    match = _RANGE.match(request.headers.get("Range", ""))
    if match is None:
        return 0, num_bytes, 200
    start = int(match[1])
    stop = min(num_bytes, int(match[2]) + 1) if match[2] else num_bytes
    if start >= stop:
        text = f"there are {num_bytes} bytes, asked for are those from {start}"
        raise RefusedError(416, "range", text)
    return start, stop, 206


def _slices(body: Sequence[memoryview], start: int, stop: int) -> Iterator[memoryview]:
    """The bytes from `start` to `stop` of all parts together, in slices."""
    at = 0
    for part in body:
        first, last = max(start - at, 0), min(stop - at, part.nbytes)
        for begin in range(first, last, SLICE_BYTES):
            yield part[begin : min(begin + SLICE_BYTES, last)]
        at += part.nbytes
