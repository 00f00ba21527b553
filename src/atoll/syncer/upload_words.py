"""What requests for uploads name and hold: paths, headers and commits, checked to the letter.

Everything is refused here that can be before memory is taken. Must never judge what a cut means.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

import msgspec
from aiohttp import web

from atoll.core.ids import Cut, CutId
from atoll.syncer.errors import RefusedError
from atoll.syncer.intake import Parcel, num_parts, part_size
from atoll.syncer.vault import Vault
from atoll.wire.shapes import LARGEST, shape_of

CRC_HEADER = "Atoll-Crc32"
STALL_S = 30.0
"""A part on which nothing moves for so long is given up."""
_CUT = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9]{1,16})\.([0-9]{1,16})\Z")
_CRC = re.compile(r"[0-9a-fA-F]{8}\Z")
_CUT_SHAPE = shape_of(Cut)


class CommitBody(msgspec.Struct, frozen=True):
    """What a commit says of the parts before it."""

    codec: str
    bytes: int
    sha256: str
    cut: msgspec.Raw = msgspec.Raw(b"null")


async def fill(request: web.Request, scratch: memoryview) -> None:
    """The body of one part into memory set aside for it; RefusedError where it does not come."""
    filled, size = 0, scratch.nbytes
    try:
        while filled < size:
            async with asyncio.timeout(STALL_S):
                chunk = await request.content.readany()
            if not chunk:
                raise RefusedError(400, "broken_off", f"{filled} of {size} bytes came")
            scratch[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    except TimeoutError as error:
        text = f"{filled} of {size} bytes came, then nothing for {STALL_S:g} s"
        raise RefusedError(408, "stalled", text) from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise RefusedError(400, "broken_off", f"{filled} of {size} bytes came") from error


def cut_of(request: web.Request) -> CutId:
    """The cut that the path names."""
    match = _CUT.match(request.match_info["cut"])
    if match is None:
        raise RefusedError(404, "unknown_path", "a cut is named learner.incarnation.number")
    cut = CutId(match[1], int(match[2]), int(match[3]))
    if max(cut.incarnation, cut.number) > LARGEST or str(cut) != match[0]:
        raise RefusedError(404, "unknown_path", f"{match[0]!r} is not how a cut is written")
    return cut


def fragment_of(request: web.Request, vault: Vault) -> int:
    """The fragment that the path names."""
    text = request.match_info["fragment"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RefusedError(404, "unknown_path", f"fragment {text[:40]!r} is not a number")
    if int(text) >= len(vault.mergers):
        raise RefusedError(404, "unknown_path", f"there is no fragment {int(text)}")
    return int(text)


def part_of(request: web.Request, num_bytes: int) -> tuple[int, int, int]:
    """Index, exact size and crc32 of a part, checked before anything is taken."""
    text = request.match_info["part"]
    total = num_parts(num_bytes)
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) >= total:
        raise RefusedError(404, "unknown_path", f"part {text[:40]!r}: there are {total}")
    index = int(text)
    size, length = part_size(num_bytes, index), request.content_length
    if length is None:
        raise RefusedError(411, "length", "a part carries its exact Content-Length")
    if length != size:
        raise RefusedError(413, "size", f"part {index} has {size} bytes, {length} were announced")
    crc = request.headers.get(CRC_HEADER, "")
    if not _CRC.match(crc):
        raise RefusedError(422, "checksum", f"{CRC_HEADER} holds 8 hex digits")
    return index, size, int(crc, 16)


def cut_in(body: CommitBody, named: CutId, fragment: int) -> Cut:
    """The cut's fields in a commit; they must be of what the path names."""
    try:
        cut: Cut = _CUT_SHAPE.build(msgspec.json.decode(body.cut, type=_CUT_SHAPE.struct))
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RefusedError(422, "malformed", f"not the fields of a cut: {error}") from error
    if cut.id != named or cut.fragment != fragment:
        text = f"the path names {named}/{fragment}, the body {cut.id}/{cut.fragment}"
        raise RefusedError(422, "malformed", text)
    return cut


def check_sha(parcel: Parcel, body: CommitBody) -> None:
    """The whole is what its sender said it is; on a worker."""
    found = hashlib.sha256(parcel.body).hexdigest()
    if found != body.sha256:
        text = f"the whole has sha256 {found[:12]}, not {body.sha256[:12]}: send it again"
        raise RefusedError(422, "checksum", text)
    parcel.sha256 = found
