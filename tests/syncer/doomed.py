"""A syncer process that kills itself, with SIGKILL, at a chosen record of its log.

python doomed.py ROOT SETTINGS SECRET_FILE (torn|before|after) N [further arguments of the syncer]
"""

from __future__ import annotations

import os
import signal
import sys

from atoll.store import store as store_module
from atoll.store.disk import Buffer, LocalDisk
from atoll.store.records import MAGIC
from atoll.syncer.main import main


class KillingDisk(LocalDisk):
    def __init__(self) -> None:
        self.when, self.left = sys.argv[4], int(sys.argv[5])
        self.logs: dict[int, None] = {}

    def create(self, path: object) -> int:
        fd = super().create(path)  # type: ignore[arg-type]
        if str(path).endswith(".log"):
            self.logs[fd] = None
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        if fd in self.logs and bytes(data[:4]) == MAGIC:
            self.left -= 1
            if self.left == 0 and self.when == "torn":
                super().write(fd, memoryview(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        super().write(fd, data)

    def fsync(self, fd: int) -> None:
        doomed = fd in self.logs and self.left <= 0
        if doomed and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().fsync(fd)
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    store_module.LocalDisk = KillingDisk  # type: ignore[misc]
    paths = ["--root", sys.argv[1], "--settings", sys.argv[2], "--secret-file", sys.argv[3]]
    sys.exit(main([*paths, *sys.argv[6:]]))
