"""The bytes of a tape: segments of frames, each with its own length and checksum.

    segment = header frame, state frame, then entries, state checks and merge notes in order
    frame   = length u32 | crc32 u32 | type u8 | msgpack, little-endian; crc over type and msgpack

A segment stands alone: its header says how to build the core and its state frame where that core
was. Nothing in it is executable. A frame that was half written is seen as such and as nothing else.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from atoll.core.coordinator_state import RunSettings
from atoll.core.settings import ProtocolSettings
from atoll.wire.records import pack, unpack

FORMAT = 1
HEADER, STATE, ENTRY, CHECK, MERGE, END, BASE = range(1, 8)
FRAME = struct.Struct("<IIB")
SUFFIX = ".tape"
PAYLOADS = "payloads"
MERGING = "merging.json"
"""Beside the tapes: what it takes to merge again, layout and settings."""
_FILE = re.compile(r"(\d{8})\.tape\Z")

Role = Literal["shard", "coordinator", "learner"]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment is of, and what it takes to build its core again.

    `life` is the number of the first segment of the process that wrote it: a segment whose number
    is another one continues the one before. `entries_before` counts the entries of that process.
    """

    party: str
    role: Role
    settings: ProtocolSettings
    index: int = 0
    num_shards: int = 1
    layout: str = ""
    run: RunSettings | None = None
    process: str = ""
    merge_backend: str = ""
    atoll_version: str = ""
    protocol: int = 0
    format: int = FORMAT
    segment: int = 0
    life: int = 0
    entries_before: int = 0


class MergeNote(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers behind a merge: digests of what went in and of what came out.

    `contributions` name cut, codec and payload digest, in the order of the merge's parts. `delta`
    is the digest of the averaged displacement as it was logged, empty where payloads are not kept;
    `published` that of the version that came of it. Digests are sha256 in hex.
    """

    fragment: int
    version: int
    backend: str
    contributions: tuple[tuple[str, str, str], ...]
    delta: str = ""
    published: str = ""


class BaseNote(msgspec.Struct, frozen=True, kw_only=True):
    """A fragment as it stood before the merges that follow; `payload` is the digest of its bytes.

    They are a safetensors file: what was published and, after version 0, what the syncer owns.
    """

    fragment: int
    version: int
    published: str
    payload: str


class Merging(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in `merging.json`."""

    merge: dict[str, Any]
    layout: dict[str, Any]


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    crc = zlib.crc32(payload, zlib.crc32(bytes((kind,))))
    return FRAME.pack(len(payload), crc, kind) + payload


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"{number:08d}{SUFFIX}"


def segment_files(directory: Path) -> list[tuple[int, Path]]:
    """The segments in a party's directory, in order."""
    found = [(_FILE.match(path.name), path) for path in directory.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def state_checksum(state: object) -> int:
    """A number that equal states share, whether just used or just restored.

    A field for seconds may hold a whole number until it has been kept once: hence the way round.
    """
    kind, data = pack(state)
    return zlib.crc32(pack(unpack(kind, data))[1])


def encode(value: Any) -> bytes:
    """Msgpack."""
    return _encoder.encode(value)


_encoder = msgspec.msgpack.Encoder()
