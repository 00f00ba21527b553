"""A disk that is full and a clock that jumps while somebody says so: faults on purpose, in a real
process.

While there is a file `disk-full` in the folder of orders, every write comes half-way and then fails
as it does on a full disk (ENOSPC), and nothing is free; without that file it is the real disk. What
a file `clock-NAME` holds is how many seconds the wall clock of the process NAME is wrong. Must
never be used unless a folder of orders was named, and never lose what was written before.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

from atoll.store.disk import Buffer, LocalDisk

DISK_FULL = "disk-full"
_true_time_s = time.time


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


def clock_order(orders: Path, name: str) -> Path:
    """Where it stands by how much the wall clock of this process is wrong."""
    return orders / f"clock-{name}"


def jump_on_orders(orders: Path, name: str) -> None:
    """From now on whoever asks Python for the wall clock is told what the orders make of it."""
    order = clock_order(orders, name)

    def time_s() -> float:
        try:
            return _true_time_s() + float(order.read_text())
        except (OSError, ValueError):  # no order, or one that is being written
            return _true_time_s()

    time.time = time_s
    time.time_ns = lambda: int(time_s() * 1e9)
