"""The real disk, but full while somebody says so: for faults on purpose in a real process.

While there is a file `disk-full` in the folder of orders, every write comes half-way and then fails
as it does on a full disk (ENOSPC), and nothing is free; without that file it is the real disk. Must
never be used unless a folder of orders was named, and never lose what was written before.
"""

from __future__ import annotations

import errno
from pathlib import Path

from atoll.store.disk import Buffer, LocalDisk

DISK_FULL = "disk-full"


class DiskOnOrders(LocalDisk):
    """Keeps the `Disk` protocol."""

    def __init__(self, orders: Path) -> None:
        self._full = orders / DISK_FULL

    def write(self, fd: int, data: Buffer) -> None:
        """All of it, or half of it and no more room."""
        if not self._full.exists():
            super().write(fd, data)
            return
        view = memoryview(data).cast("B")
        super().write(fd, view[: len(view) // 2])
        raise OSError(errno.ENOSPC, "no space left on device (by order)")

    def free_bytes(self, path: Path) -> int:
        """Nothing while it is full."""
        return 0 if self._full.exists() else super().free_bytes(path)
