"""Reading a log: which segment files there are, where they end, what is in them.

Every epoch writes files of its own, so an old owner's late records land where no newer manifest
looks. Within an epoch a segment ends where the next one begins: what follows in the file is an
append that failed and was never visible. Must never change a file, and never skip a bad record:
only at the very end of the newest segment is one taken for a torn append.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from atoll.store.disk import read_errors
from atoll.store.errors import LogDamaged
from atoll.store.records import MAGIC, BadRecord, Record, file_size_bytes, read_record

_NAME = re.compile(r"^e(\d{6,})-s(\d{6,})-l(\d{12,})\.log\Z")


@dataclass(frozen=True, order=True)
class Segment:
    """One file of the log, as its name says."""

    epoch: int
    sequence: int
    first_lsn: int

    @property
    def file(self) -> str:
        """The file name."""
        return f"e{self.epoch:06d}-s{self.sequence:06d}-l{self.first_lsn:012d}.log"


@dataclass(frozen=True)
class SegmentSpan:
    """A file of the log and the records of it that count."""

    file: str
    first_lsn: int
    last_lsn: int


@dataclass(frozen=True)
class SegmentEnd:
    """Where the good records of a segment end; `torn` says what follows them, or is empty."""

    last_lsn: int
    end_offset: int
    torn: str


def parse_segment(file: str) -> Segment | None:
    """The segment a file name stands for; None for any other file."""
    match = _NAME.match(file)
    return Segment(*(int(group) for group in match.groups())) if match else None


def list_segments(directory: Path) -> list[Segment]:
    """All segments of all epochs, oldest first."""
    with read_errors(directory):
        names = [path.name for path in directory.iterdir()]
    return sorted(segment for name in names if (segment := parse_segment(name)))


def spans_of_epoch(directory: Path, epoch: int) -> tuple[list[SegmentSpan], str]:
    """What an epoch's files hold, and a note on a torn tail (empty if there is none)."""
    segments = [segment for segment in list_segments(directory) if segment.epoch == epoch]
    spans, note = [], ""
    for index, segment in enumerate(segments):
        if index + 1 < len(segments):
            last_lsn = segments[index + 1].first_lsn - 1
        else:
            end = find_end(directory / segment.file, segment)
            last_lsn, note = end.last_lsn, end.torn
        if last_lsn >= segment.first_lsn:
            spans.append(SegmentSpan(segment.file, segment.first_lsn, last_lsn))
    return spans, note


def find_end(path: Path, segment: Segment) -> SegmentEnd:
    """Check every record of the newest segment and find where the good ones end.

    Raises `LogDamaged` if a bad record is followed by a good one.
    """
    with read_errors(path), path.open("rb") as file:
        file_bytes = file_size_bytes(file)
        offset, lsn = 0, segment.first_lsn - 1
        while offset < file_bytes:
            try:
                record, next_offset = _read_expected(file, offset, file_bytes, segment, lsn + 1)
            except BadRecord as bad:
                _refuse_if_good_follows(path, file, file_bytes, bad)
                return SegmentEnd(lsn, offset, _torn(path, bad, lsn, file_bytes))
            offset, lsn = next_offset, record.lsn
    return SegmentEnd(lsn, offset, "")


def read_span(path: Path, span: SegmentSpan, first_lsn: int) -> Iterator[Record]:
    """The records of a span from `first_lsn` on; every one of them must be good."""
    segment = parse_segment(span.file)
    assert segment is not None and segment.first_lsn == span.first_lsn
    with read_errors(path), path.open("rb") as file:
        file_bytes = file_size_bytes(file)
        offset = 0
        for lsn in range(span.first_lsn, span.last_lsn + 1):
            try:
                record, offset = _read_expected(file, offset, file_bytes, segment, lsn)
            except BadRecord as bad:
                raise LogDamaged(path, bad.offset, bad.reason) from bad
            if lsn >= first_lsn:
                yield record


def _read_expected(
    file: BufferedReader, offset: int, file_bytes: int, segment: Segment, lsn: int
) -> tuple[Record, int]:
    record, next_offset = read_record(file, offset, file_bytes)
    if (record.lsn, record.epoch) != (lsn, segment.epoch):
        found = f"record {record.lsn} of epoch {record.epoch}"
        raise BadRecord(offset, f"{found} where {lsn} of epoch {segment.epoch} belongs")
    return record, next_offset


def _torn(path: Path, bad: BadRecord, last_lsn: int, file_bytes: int) -> str:
    return (
        f"cut a torn append off {path}: {file_bytes - bad.offset} bytes after record {last_lsn}, "
        f"from byte {bad.offset} ({bad.reason}); no caller was told that it is durable"
    )


def _refuse_if_good_follows(
    path: Path, file: BufferedReader, file_bytes: int, bad: BadRecord
) -> None:
    """A whole record there or further on: then no torn append explains the bad one."""
    with mmap.mmap(file.fileno(), file_bytes, access=mmap.ACCESS_READ) as view:
        at = view.find(MAGIC, bad.offset)
        while at >= 0:
            try:
                record, _ = read_record(file, at, file_bytes)
            except BadRecord:
                at = view.find(MAGIC, at + 1)
                continue
            reason = f"{bad.reason}, but the good record {record.lsn} stands at byte {at}"
            raise LogDamaged(path, bad.offset, reason)
