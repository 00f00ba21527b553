"""Recording: every event of one core with its time and effects, in order, into segments.

The driver opens the tape before the core's first event and calls `record` after each `handle`.
Writing is buffered and only appends. Must never raise into the run: a disk that fails, or anything
that cannot be kept, ends the tape, and `record` returns the reason once. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from atoll import __version__
from atoll.core.effects import Effect
from atoll.tape.format import (
    BASE,
    CHECK,
    END,
    ENTRY,
    HEADER,
    MERGE,
    STATE,
    BaseNote,
    Header,
    MergeNote,
    encode,
    frame,
    segment_files,
    segment_name,
    state_checksum,
)
from atoll.wire.protocol import PROTOCOL
from atoll.wire.records import RecordError, pack, packable


@dataclass(frozen=True, slots=True)
class TapeSettings:
    """How much of a run is kept on tape."""

    segment_entries: int = 50_000
    """Entries after which a new segment begins, with a snapshot of its own."""
    segment_bytes: int = 16 << 20
    """Bytes after which a new segment begins."""
    keep_segments: int = 0
    """Segments kept of each party; the oldest go first (0: all)."""
    buffer_bytes: int = 64 << 10
    """Bytes held back until they are written; `flush` writes them at once."""
    check_entries: int = 256
    """Entries between two checksums of the core's state."""


_CANNOT = (OSError, RecordError, msgspec.MsgspecError, UnicodeError, OverflowError, TypeError)


class Recorded(Protocol):
    """What a tape wants of the core that it watches."""

    @property
    def state(self) -> Any:
        """All that the core is, at the moment."""

    def next_deadline_s(self) -> float:
        """What the driver asks after every event."""


class TapeWriter:
    """The tape of one party; a new core, after a restart, has a new writer."""

    def __init__(
        self,
        root: Path,
        header: Header,
        core: Recorded,
        settings: TapeSettings | None = None,
    ):
        self.stopped = ""
        self.num_entries = 0
        self._settings = settings or TapeSettings()
        self._header = header
        self._core = core
        self._directory = root / header.party
        self._file: BinaryIO | None = None
        self._buffer = bytearray()
        self._life = self._entries = self._bytes = 0

    def open(self) -> str:
        """Begin the first segment. Returns why that was not possible, or ""."""
        return self._guarded(self._open)

    def record(self, now_s: float, event: object, effects: Sequence[Effect]) -> str:
        """Keep one event and its effects. Returns the reason in the call that ends the tape."""
        if self.stopped:
            return ""
        try:
            kind, value = packable(event)
            wanted = [packable(effect) for effect in effects]
            self._add(ENTRY, encode((now_s, kind, value, wanted)))
            self.num_entries += 1
            self._entries += 1
            if self.num_entries % self._settings.check_entries == 0:
                self._check()
            full = self._entries >= self._settings.segment_entries
            if full or self._bytes >= self._settings.segment_bytes:
                self._begin_segment()
        except _CANNOT as error:
            return self._stop(error)
        return ""

    def note(self, note: MergeNote | BaseNote) -> str:
        """Keep the numbers of a merge, or where merges begin. Payloads are the driver's to keep."""
        kind = MERGE if isinstance(note, MergeNote) else BASE
        return self._guarded(lambda: self._add(kind, encode(note)))

    def flush(self) -> str:
        """Write what is held back, so that it survives this process."""
        return self._guarded(self._flush)

    def close(self) -> str:
        """End the tape properly: what comes after it is not missing."""

        def end() -> None:
            self._check()
            self._add(END, b"")
            self._flush()
            self._close_file()

        reason = self._guarded(end)
        self.stopped = self.stopped or "closed"
        return reason

    # ------------------------------------------------------------ within

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._flush()
        self._close_file()
        files = segment_files(self._directory)
        number = files[-1][0] + 1 if files else 1
        self._life = self._life or number
        self._file = (self._directory / segment_name(number)).open("xb", buffering=0)
        header = msgspec.structs.replace(
            self._header,
            segment=number,
            life=self._life,
            entries_before=self.num_entries,
            atoll_version=__version__,
            protocol=PROTOCOL,
        )
        self._add(HEADER, encode(header))
        self._add(STATE, encode(pack(self._state())))
        self._flush()
        self._entries = self._bytes = 0
        if self._settings.keep_segments:
            for _, path in files[: max(0, len(files) + 1 - self._settings.keep_segments)]:
                path.unlink(missing_ok=True)

    def _state(self) -> object:
        """The state after the driver's question, which may tidy a heap up: a replay asks too."""
        self._core.next_deadline_s()
        state: object = self._core.state
        return state

    def _check(self) -> None:
        self._add(CHECK, encode(state_checksum(self._state())))

    def _add(self, kind: int, payload: bytes) -> None:
        data = frame(kind, payload)
        self._buffer += data
        self._bytes += len(data)
        if len(self._buffer) >= self._settings.buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        while self._buffer and self._file is not None:
            written = self._file.write(self._buffer)
            del self._buffer[:written]

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _guarded(self, action: Callable[[], None]) -> str:
        if self.stopped:
            return ""
        try:
            action()
        except _CANNOT as error:
            return self._stop(error)
        return ""

    def _stop(self, error: Exception) -> str:
        party = self._header.party
        self.stopped = f"the tape of {party} ends here, the run goes on: {error}"
        self._buffer.clear()
        try:
            self._close_file()
        except OSError:
            self._file = None
        return self.stopped
