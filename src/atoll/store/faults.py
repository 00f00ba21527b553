"""A disk that misbehaves to order: for tests, and for chaos runs.

Counts every operation that changes something. It can stop dead at the n-th (`Crashed`, a write
half done), refuse the n-th with an error, be full, or know no hard links. `lose_power` takes back
what was not fsynced. Must never be the default anywhere. Data go to a real directory, unsynced.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atoll.store.disk import Buffer, LocalDisk

NEVER = 1 << 62
UNLIMITED_BYTES = 1 << 62
GARBAGE = b"\xa5"


class Crashed(BaseException):
    """The process is gone. No `except` of the store may catch it, and nothing works after it."""


@dataclass
class Faults:
    """What shall go wrong. Operations are counted from 1."""

    crash_at: int = NEVER
    error_at: int = NEVER
    error_code: int = errno.EIO
    room_bytes: int = UNLIMITED_BYTES
    hard_links: bool = True


@dataclass
class _File:
    path: Path
    size_bytes: int = 0
    synced_bytes: int = 0


@dataclass
class FaultyDisk:
    """Keeps the `Disk` protocol, with `faults`."""

    graveyard: Path
    faults: Faults = field(default_factory=Faults)
    num_operations: int = 0
    operations: list[str] = field(default_factory=list)
    _real: LocalDisk = field(default_factory=LocalDisk)
    _open: dict[int, _File] = field(default_factory=dict)
    _files: dict[Path, _File] = field(default_factory=dict)
    _undo: list[tuple[Path, Callable[[], None]]] = field(default_factory=list)

    def create(self, path: Path) -> int:
        """Counted; undone by a loss of power until the directory is synced."""
        self._step(f"create {path.name}")
        fd = self._real.create(path)
        self._open[fd] = self._files[path] = _File(path)
        self._undo.append((path.parent, lambda: path.unlink(missing_ok=True)))
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        """Counted; half done at a crash, as far as there is room when full."""
        view = memoryview(data).cast("B")
        was_gone = self.num_operations >= self.faults.crash_at
        try:
            self._step("write")
        except (Crashed, OSError):
            if not was_gone:
                self._append(fd, view[: len(view) // 2])
            raise
        room_bytes = self.faults.room_bytes
        self._append(fd, view[: max(room_bytes, 0)])
        if len(view) > room_bytes:
            raise OSError(errno.ENOSPC, "no space left (by order)")

    def fsync(self, fd: int) -> None:
        """Counted; what it covered survives a loss of power."""
        self._step("fsync")
        file = self._open[fd]
        file.synced_bytes = file.size_bytes

    def fsync_file(self, path: Path) -> None:
        """Counted."""
        self._step(f"fsync_file {path.name}")
        file = self._files.get(path, _File(path))
        file.synced_bytes = file.size_bytes

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Counted; gives room back."""
        self._step("truncate")
        file = self._open[fd]
        self.faults.room_bytes += file.size_bytes - size_bytes
        self._real.truncate(fd, size_bytes)
        file.size_bytes = size_bytes

    def close(self, fd: int) -> None:
        """Not counted: it changes nothing. The descriptor is given back even after a crash."""
        self._open.pop(fd)
        self._real.close(fd)

    def fsync_dir(self, path: Path) -> None:
        """Counted; names in the directory survive a loss of power."""
        self._step(f"fsync_dir {path.name}")
        self._undo = [(parent, undo) for parent, undo in self._undo if parent != path]

    def rename(self, source: Path, target: Path) -> None:
        """Counted."""
        self._step(f"rename {target.name}")
        self._real.rename(source, target)
        self._files[target] = self._files.pop(source, _File(target))
        self._files[target].path = target
        self._undo.append((target.parent, lambda: self._rename_back(target, source)))

    def link(self, source: Path, target: Path) -> None:
        """Counted; may be unknown here."""
        self._step(f"link {target.name}")
        if not self.faults.hard_links:
            raise OSError(errno.EOPNOTSUPP, "no hard links (by order)")
        self._real.link(source, target)
        self._undo.append((target.parent, lambda: target.unlink(missing_ok=True)))

    def unlink(self, path: Path) -> None:
        """Counted; kept aside so that a loss of power can bring it back."""
        self._step(f"unlink {path.name}")
        aside = self.graveyard / f"{self.num_operations}-{path.name}"
        path.rename(aside)
        self.faults.room_bytes += aside.stat().st_size
        self._undo.append((path.parent, lambda: self._bring_back(aside, path)))

    def mkdir(self, path: Path) -> None:
        """Counted; its loss is the loss of what is in it, so it is not undone by itself."""
        self._step(f"mkdir {path.name}")
        self._real.mkdir(path)

    def free_bytes(self, path: Path) -> int:
        """What was ordered."""
        return min(self.faults.room_bytes, self._real.free_bytes(path))

    def give_back_descriptors(self) -> None:
        """What the kernel does for a process that is gone."""
        for fd in list(self._open):
            self.close(fd)

    def lose_power(self, unsynced: str) -> None:
        """Take back names that were not synced; unsynced bytes are `lost` or become `garbage`."""
        assert unsynced in {"lost", "garbage"}
        self.give_back_descriptors()
        for file in self._files.values():
            if file.path.exists() and file.size_bytes > file.synced_bytes:
                os.truncate(file.path, file.synced_bytes)
                if unsynced == "garbage":
                    with file.path.open("ab") as stream:
                        stream.write(GARBAGE * (file.size_bytes - file.synced_bytes))
        for _, undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _step(self, what: str) -> None:
        if self.num_operations >= self.faults.crash_at:
            raise Crashed(f"already gone, asked to {what}")
        self.num_operations += 1
        self.operations.append(what)
        if self.num_operations == self.faults.crash_at:
            raise Crashed(f"at operation {self.num_operations}: {what}")
        if self.num_operations == self.faults.error_at:
            raise OSError(self.faults.error_code, f"{what} refused (by order)")

    def _append(self, fd: int, view: memoryview) -> None:
        self._real.write(fd, view)
        self._open[fd].size_bytes += len(view)
        self.faults.room_bytes -= len(view)

    def _rename_back(self, target: Path, source: Path) -> None:
        if target.exists():
            target.rename(source)

    def _bring_back(self, aside: Path, path: Path) -> None:
        if aside.exists() and not path.exists():
            aside.rename(path)
