"""Appending to a log: a record is durable when `append` returns its LSN.

One writer belongs to one epoch and writes that epoch's files only. Must never acknowledge a
record that is not fsynced and not checked against the fence (`before_visible`), never write
after a record that failed without voiding it first, and never append once it was fenced. Keeps
invariant 2. A failed append leaves the log as it was: what was half written is cut off, or voided
by a new segment that starts with the same LSN.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from atoll.store.disk import Buffer, Disk, disk_errors
from atoll.store.errors import Fenced
from atoll.store.records import encode_record
from atoll.store.segments import Segment

_CLOSED = -1


def _nothing() -> None:
    """No fence to check."""


class LogWriter:
    """Appends records; safe to call from several threads, one append at a time."""

    def __init__(
        self, directory: Path, epoch: int, next_lsn: int, disk: Disk, segment_bytes: int
    ) -> None:
        assert epoch > 0 and next_lsn > 0 and segment_bytes > 0
        self._directory = directory
        self._epoch = epoch
        self._next_lsn = next_lsn
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._segment = Segment(epoch, 0, next_lsn)
        self._fd = _CLOSED
        self._size_bytes = 0
        self._fenced: Fenced | None = None

    @property
    def last_lsn(self) -> int:
        """The last record that is durable."""
        return self._next_lsn - 1

    def append(
        self,
        kind: int,
        metadata: object,
        payloads: Sequence[Buffer] = (),
        before_visible: Callable[[], None] = _nothing,
    ) -> int:
        """Write one record and return its LSN once it is durable and `before_visible` agreed.

        Raises `DiskFull` or `DiskFailed`: the record is not there, the next append may be tried.
        Raises `Fenced` (from `before_visible`): this writer has come to its end.
        """
        with self._lock:
            if self._fenced is not None:
                raise self._fenced
            chunks = encode_record(self._next_lsn, self._epoch, kind, metadata, payloads)
            record_bytes = sum(len(chunk) for chunk in chunks)
            with disk_errors(self._disk, self._directory, record_bytes):
                self._open_segment_for(record_bytes)
                self._write(chunks)
            self._make_durable(record_bytes, before_visible)
            self._size_bytes += record_bytes
            self._next_lsn += 1
            return self._next_lsn - 1

    def close(self) -> None:
        """Give the file back; everything acknowledged is durable already."""
        with self._lock:
            self._close_segment()

    def _write(self, chunks: Sequence[Buffer]) -> None:
        """All chunks at the end of the segment; a partial record is cut off again."""
        try:
            for chunk in chunks:
                self._disk.write(self._fd, chunk)
        except OSError:
            # Only a partial record is cut. A whole one may have been read by a new owner already.
            try:
                self._disk.truncate(self._fd, self._size_bytes)
            except OSError:
                self._close_segment()
            raise

    def _make_durable(self, record_bytes: int, before_visible: Callable[[], None]) -> None:
        """Past this point the record counts, or its segment is left behind and it never did."""
        acknowledged = False
        try:
            with disk_errors(self._disk, self._directory / self._segment.file, record_bytes):
                self._disk.fsync(self._fd)
            before_visible()
            acknowledged = True
        except Fenced as fenced:
            self._fenced = fenced
            raise
        finally:
            if not acknowledged:
                self._close_segment()

    def _open_segment_for(self, record_bytes: int) -> None:
        if self._size_bytes > 0 and self._size_bytes + record_bytes > self._segment_bytes:
            self._close_segment()
        if self._fd != _CLOSED:
            return
        segment = Segment(self._epoch, self._segment.sequence + 1, self._next_lsn)
        fd = self._disk.create(self._directory / segment.file)
        self._segment, self._fd, self._size_bytes = segment, fd, 0
        try:
            self._disk.fsync_dir(self._directory)
        except OSError:
            self._close_segment()
            raise

    def _close_segment(self) -> None:
        """The next append starts a new file, which voids what was left in this one."""
        if self._fd != _CLOSED:
            with suppress(OSError):
                self._disk.close(self._fd)
            self._fd = _CLOSED
