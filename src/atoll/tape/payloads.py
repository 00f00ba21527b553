"""Payloads of merges beside a tape: files named by their digest, kept for the last merges or all.

Must never keep more than it was told to, and never overwrite: a name is the content. Safe for
threads, so that merges of several fragments may be kept at once.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

from atoll.store.disk import Buffer

ALL = -1
NONE = 0


def digest_of(data: Buffer) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


class PayloadFolder:
    """Files by digest. `keep_merges` says for how many merges: `NONE`, `ALL`, or a number."""

    def __init__(self, directory: Path, keep_merges: int):
        self._directory = directory
        self._keep_merges = keep_merges
        self._merges: deque[tuple[str, ...]] = deque()
        self._uses: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether payloads are kept at all."""
        return self._keep_merges != NONE

    def open(self) -> None:
        """Make the folder; what an earlier process left counts as one merge."""
        if not self.wanted:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for half in self._directory.glob("*.half"):
            half.unlink()
        left = tuple(sorted(path.name for path in self._directory.iterdir()))
        if left:
            self._count(left)

    def keep(self, bodies: Iterable[tuple[str, Buffer]]) -> None:
        """Keep the payloads of one merge, each with its digest; the oldest merge's go in turn."""
        if not self.wanted:
            return
        bodies = tuple(bodies)
        with self._lock:
            for digest, body in bodies:
                self._write(digest, body)
            self._count(tuple(digest for digest, _ in bodies))

    def _write(self, digest: str, body: Buffer) -> None:
        path = self._directory / digest
        if path.exists():
            return
        half = path.with_suffix(".half")
        half.write_bytes(body)
        half.replace(path)

    def _count(self, digests: tuple[str, ...]) -> None:
        self._merges.append(digests)
        self._uses.update(digests)
        while self._keep_merges != ALL and len(self._merges) > self._keep_merges:
            for digest in self._merges.popleft():
                self._uses[digest] -= 1
                if self._uses[digest] == 0:
                    del self._uses[digest]
                    (self._directory / digest).unlink(missing_ok=True)
