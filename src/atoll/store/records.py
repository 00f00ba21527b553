"""One log record as bytes, and back.

    magic 4 | crc32 4 | lsn 8 | epoch 8 | kind 2 | num_payloads 2
    metadata_bytes 4 | payload_bytes 8
    payload sizes, 8 bytes each | metadata (JSON) | payloads

The checksum covers everything after itself. Numbers are little-endian. Must never take memory for
a size that the file cannot hold, and never decode anything but JSON. Keeps: a record is seen
whole or not at all.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import TypeVar

import msgspec

from atoll.store.disk import Buffer
from atoll.store.errors import StoreError

MAGIC = b"ATL1"
_HEADER = struct.Struct("<4sIQQHHIQ")
_COVERED_FROM = 8
HEADER_BYTES = _HEADER.size
MAX_PAYLOADS = 0xFFFF

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What was appended. `lsn` counts records from 1, without gaps, across segments and epochs."""

    lsn: int
    epoch: int
    kind: int
    metadata: bytes
    payloads: tuple[memoryview, ...]

    def decode(self, as_type: type[T]) -> T:
        """The metadata as the type it was written from."""
        try:
            return msgspec.json.decode(self.metadata, type=as_type)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"log record {self.lsn} (kind {self.kind}) is not a {as_type.__name__}: {error}; "
                "was it written by another version of atoll?"
            ) from error


class BadRecord(Exception):
    """No good record starts here; the reader decides whether that is a torn tail or damage."""

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        self.reason = reason
        super().__init__(f"byte {offset}: {reason}")


@dataclass(frozen=True)
class Header:
    """The fixed part of a record, checked against the size of its file."""

    offset: int
    crc32: int
    lsn: int
    epoch: int
    kind: int
    num_payloads: int
    metadata_bytes: int
    payload_bytes: int

    @property
    def body_bytes(self) -> int:
        """All that follows the header."""
        return 8 * self.num_payloads + self.metadata_bytes + self.payload_bytes

    @property
    def end_offset(self) -> int:
        """Where the next record starts."""
        return self.offset + HEADER_BYTES + self.body_bytes


def encode_record(
    lsn: int, epoch: int, kind: int, metadata: object, payloads: Sequence[Buffer]
) -> list[Buffer]:
    """The record as buffers to write one after the other; payloads are not copied."""
    if not 0 <= kind <= 0xFFFF:
        raise ValueError(f"record kind {kind} does not fit 16 bits")
    if len(payloads) > MAX_PAYLOADS:
        raise ValueError(f"{len(payloads)} payloads in one record; at most {MAX_PAYLOADS}")
    views = [memoryview(payload).cast("B") for payload in payloads]
    text = msgspec.json.encode(metadata)
    sizes = struct.pack(f"<{len(views)}Q", *(len(view) for view in views))
    total = sum(len(view) for view in views)
    fields = (lsn, epoch, kind, len(views), len(text), total)
    front = bytearray(_HEADER.pack(MAGIC, 0, *fields)) + sizes + text
    crc = zlib.crc32(memoryview(front)[_COVERED_FROM:])
    for view in views:
        crc = zlib.crc32(view, crc)
    struct.pack_into("<I", front, 4, crc)
    return [front, *(view for view in views if len(view))]


def read_header(file: BufferedReader, offset: int, file_bytes: int) -> Header:
    """The header at `offset`, or `BadRecord`."""
    file.seek(offset)
    raw = file.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise BadRecord(offset, f"a header of {len(raw)} of {HEADER_BYTES} bytes")
    magic, *fields = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise BadRecord(offset, "no record starts here (wrong magic)")
    header = Header(offset, *fields)
    if header.end_offset > file_bytes:
        missing = header.end_offset - file_bytes
        raise BadRecord(offset, f"record {header.lsn} ends {missing} bytes after the file")
    return header


def read_record(file: BufferedReader, offset: int, file_bytes: int) -> tuple[Record, int]:
    """The record at `offset` and where the next one starts, or `BadRecord`."""
    header = read_header(file, offset, file_bytes)
    body = bytearray(header.body_bytes)
    file.seek(offset + _COVERED_FROM)
    crc = zlib.crc32(file.read(HEADER_BYTES - _COVERED_FROM))
    if file.readinto(body) != len(body):
        raise BadRecord(offset, f"record {header.lsn} ends early")
    if zlib.crc32(body, crc) != header.crc32:
        raise BadRecord(offset, f"record {header.lsn} has a wrong checksum")
    return _split(header, body), header.end_offset


def _split(header: Header, body: bytearray) -> Record:
    view = memoryview(body)
    sizes = struct.unpack_from(f"<{header.num_payloads}Q", body)
    if sum(sizes) != header.payload_bytes:
        raise BadRecord(header.offset, f"record {header.lsn} has payload sizes that do not add up")
    at = 8 * header.num_payloads
    metadata = bytes(view[at : at + header.metadata_bytes])
    at += header.metadata_bytes
    payloads = []
    for size in sizes:
        payloads.append(view[at : at + size])
        at += size
    return Record(header.lsn, header.epoch, header.kind, metadata, tuple(payloads))


def file_size_bytes(file: BufferedReader) -> int:
    """Size of an open file at this moment."""
    return os.fstat(file.fileno()).st_size
