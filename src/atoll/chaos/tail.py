"""Following the syncer's tapes while they are written: entries as they come, with their epoch.

Reads what is whole and waits for the rest; a torn end is passed over when the next process begins
its own segment. Must never write, and never lose an entry that is whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from atoll.core.events import Restarted
from atoll.tape.format import FRAME, HEADER, STATE, Header, segment_files
from atoll.tape.read import Entry, Segment, TapeError, read_segment

SHARDS = "shard-*"


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry. What a restarted syncer read back comes before its own epoch: without a time."""

    party: str
    epoch: int
    entry: Entry


@dataclass(slots=True)
class _Reader:
    """One party's segments, and how far they have been read."""

    folder: Path
    number: int = 0
    offset: int = 0
    header: Header | None = None
    epoch: int = 0

    def read(self) -> Iterator[Seen]:
        """All that is whole and was not read yet."""
        while True:
            yield from self._entries()
            following = [file for file in segment_files(self.folder) if file[0] > self.number]
            if not following or not self._begin(*following[0]):
                return

    def _begin(self, number: int, path: Path) -> bool:
        try:
            segment = read_segment(path)
        except TapeError:
            return False  # its head is not written yet
        if self.header is None or self.header.life != segment.header.life:
            self.epoch = segment.state.epoch
        self.header, self.number, self.offset = segment.header, number, 0
        return True

    def _entries(self) -> Iterator[Seen]:
        if self.header is None:
            return
        path = dict(segment_files(self.folder))[self.number]
        frames = [each for each in self._frames(path) if each[0] not in (HEADER, STATE)]
        for item in Segment(path, self.header, None, frames).items():
            if isinstance(item, Entry):
                if isinstance(item.event, Restarted):
                    self.epoch = item.event.epoch
                yield Seen(self.folder.name, self.epoch, item)

    def _frames(self, path: Path) -> Iterator[tuple[int, bytes]]:
        with path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        at = 0
        while len(data) - at >= FRAME.size:
            length, crc, kind = FRAME.unpack_from(data, at)
            payload = data[at + FRAME.size : at + FRAME.size + length]
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != crc:
                break
            at += FRAME.size + length
            yield kind, payload
        self.offset += at


@dataclass(slots=True)
class TapeTail:
    """`read` gives what the shards did since it was called last."""

    tapes: Path
    _readers: dict[str, _Reader] = field(default_factory=dict)

    def read(self) -> list[Seen]:
        """Everything that is new, shard by shard, each in order."""
        found: list[Seen] = []
        for folder in sorted(self.tapes.glob(SHARDS)):
            reader = self._readers.setdefault(folder.name, _Reader(folder))
            found += reader.read()
        return found

    @property
    def header(self) -> Header | None:
        """Of any shard, once there is one."""
        return next((each.header for each in self._readers.values() if each.header), None)
