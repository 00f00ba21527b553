"""The few operations by which the store changes a disk, behind one small protocol.

Everything that must survive goes through here, so a test can stop, tear or refuse any single
operation. Must never buffer: when `fsync` returns the bytes are on stable storage.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from atoll.store.errors import DiskFailed, DiskFull

Buffer = bytes | bytearray | memoryview

WRITE_SLICE_BYTES = 64 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Disk(Protocol):
    """Raises `OSError`; translation into store errors is the caller's."""

    def create(self, path: Path) -> int:
        """A new file for appending; `FileExistsError` if the name is taken."""

    def write(self, fd: int, data: Buffer) -> None:
        """All of `data` at the end of the file."""

    def fsync(self, fd: int) -> None:
        """The file's bytes and size are durable."""

    def fsync_file(self, path: Path) -> None:
        """As `fsync`, for a file that somebody else wrote."""

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut the file."""

    def close(self, fd: int) -> None:
        """Give the descriptor back; makes nothing durable."""

    def fsync_dir(self, path: Path) -> None:
        """The names in the directory are durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Atomic; replaces `target`."""

    def link(self, source: Path, target: Path) -> None:
        """A second name; `FileExistsError` if the name is taken."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def mkdir(self, path: Path) -> None:
        """Make a directory; fine if it is there."""

    def free_bytes(self, path: Path) -> int:
        """Room left, for messages and for refusing early."""


class LocalDisk:
    """The real thing."""

    def create(self, path: Path) -> int:
        """Mode 0600: a run's state is its owner's."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)

    def write(self, fd: int, data: Buffer) -> None:
        """Loops: the kernel may take less than it is given."""
        view = memoryview(data).cast("B")
        start = 0
        while start < len(view):
            start += os.write(fd, view[start : start + WRITE_SLICE_BYTES])

    def fsync(self, fd: int) -> None:
        """To the platter, not only to the drive."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone leaves bytes in the drive's cache
        else:
            os.fsync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Not durable before the next `fsync`."""
        os.ftruncate(fd, size_bytes)

    def close(self, fd: int) -> None:
        """Plain close."""
        os.close(fd)

    def fsync_file(self, path: Path) -> None:
        """By a descriptor of one's own."""
        fd = os.open(path, os.O_RDONLY)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def fsync_dir(self, path: Path) -> None:
        """By a descriptor of the directory."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Atomic within a file system."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """A hard link."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Plain unlink."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """With parents, for the owner only."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def free_bytes(self, path: Path) -> int:
        """Of the file system under `path`."""
        return shutil.disk_usage(path).free


def write_file(disk: Disk, path: Path, chunks: Iterable[Buffer]) -> None:
    """A new, complete, fsynced file; its name is not durable until `fsync_dir`.

    On an `OSError` the half-written file is removed, as far as the disk lets us.
    """
    fd = disk.create(path)
    try:
        for chunk in chunks:
            disk.write(fd, chunk)
        disk.fsync(fd)
    except OSError:
        with suppress(OSError):
            disk.unlink(path)
        raise
    finally:
        with suppress(OSError):
            disk.close(fd)


@contextmanager
def disk_errors(disk: Disk, path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn operating system errors inside the block into `DiskFull` or `DiskFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            with read_errors(path):
                free_bytes = disk.free_bytes(path.parent)
            raise DiskFull(path, needed_bytes, free_bytes) from error
        raise DiskFailed(path, error) from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn operating system errors of reading into `DiskFailed`."""
    try:
        yield
    except OSError as error:
        raise DiskFailed(path, error) from error
