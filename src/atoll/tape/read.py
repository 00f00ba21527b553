"""Reading tapes: segments as they were written, and what is torn or damaged about them.

The last frame of a process that was killed may be torn: that is named and accepted. Anything else
that does not fit its checksum is damage, which is named and never passed over. Must never build
anything but records of the cores.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from atoll.tape.format import (
    BASE,
    CHECK,
    END,
    ENTRY,
    FORMAT,
    FRAME,
    HEADER,
    MERGE,
    STATE,
    BaseNote,
    Header,
    MergeNote,
    segment_files,
)
from atoll.wire.records import RecordError, unpack

_Pair = tuple[str, msgspec.Raw]
_entry = msgspec.msgpack.Decoder(tuple[float, str, msgspec.Raw, list[_Pair]])
_header = msgspec.msgpack.Decoder(Header)
_state = msgspec.msgpack.Decoder(tuple[str, bytes])
_note = msgspec.msgpack.Decoder(MergeNote)
_base = msgspec.msgpack.Decoder(BaseNote)
_check = msgspec.msgpack.Decoder(int)


class TapeError(ValueError):
    """A tape that cannot be read. The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a core, when it happened, and the effects it had."""

    number: int
    now_s: float
    event: Any
    effects: list[Any]


@dataclass(frozen=True, slots=True)
class StateCheck:
    """The checksum of the core's state at this point."""

    checksum: int


Item = Entry | StateCheck | MergeNote | BaseNote


@dataclass(slots=True)
class Segment:
    """One file of a tape. `torn` and `damage` say what is wrong with its bytes ("" for nothing)."""

    path: Path
    header: Header
    state: Any
    frames: list[tuple[int, bytes]]
    torn: str = ""
    damage: str = ""
    ended: bool = False

    @property
    def num_entries(self) -> int:
        """Events in this segment."""
        return len([1 for kind, _ in self.frames if kind == ENTRY])

    def items(self) -> Iterator[Item]:
        """Everything after the state, in order. Raises TapeError for what is no record."""
        number = self.header.entries_before
        for kind, payload in self.frames:
            try:
                if kind == ENTRY:
                    now_s, name, event, wanted = _entry.decode(payload)
                    effects = [unpack(each, data) for each, data in wanted]
                    yield Entry(number, now_s, unpack(name, event), effects)
                    number += 1
                elif kind == CHECK:
                    yield StateCheck(_check.decode(payload))
                elif kind == MERGE:
                    yield _note.decode(payload)
                elif kind == BASE:
                    yield _base.decode(payload)
            except (RecordError, msgspec.MsgspecError) as error:
                raise TapeError(f"{self.path}, entry {number}: {error}") from error


@dataclass(slots=True)
class PartyTape:
    """All segments of one party, and what is wrong with them."""

    party: str
    segments: list[Segment] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    def lives(self) -> list[list[Segment]]:
        """The segments by the process that wrote them."""
        lives: list[list[Segment]] = []
        for segment in self.segments:
            if lives and lives[-1][0].header.life == segment.header.life:
                lives[-1].append(segment)
            else:
                lives.append([segment])
        return lives


def read_tapes(root: Path) -> list[PartyTape]:
    """The tapes of all parties below a directory, or of the one party whose directory it is."""
    if not root.is_dir():
        raise TapeError(f"there is no directory {root}")
    if segment_files(root):
        return [read_party(root)]
    parties = sorted(path for path in root.iterdir() if path.is_dir() and segment_files(path))
    if not parties:
        raise TapeError(f"there is no tape in {root}: name the directory given to the recording")
    return [read_party(path) for path in parties]


def read_party(directory: Path) -> PartyTape:
    """All segments of a party, checked for what is missing between them."""
    tape = PartyTape(directory.name)
    files = segment_files(directory)
    awaited = files[0][0]
    for number, path in files:
        is_last = path == files[-1][1]
        if number != awaited:
            tape.damage.append(f"{number - awaited} segments are missing before {path}")
        awaited = number + 1
        try:
            segment = read_segment(path)
        except TapeError as error:
            # A process that was killed at once leaves a first frame that is half written.
            where = tape.torn if is_last else tape.damage
            where.append(str(error))
            continue
        if segment.header.segment != number:
            tape.damage.append(f"{path} was written as segment {segment.header.segment}")
        tape.segments.append(segment)
    _join(tape)
    return tape


def _join(tape: PartyTape) -> None:
    """A torn tail is one only where its process ended; within a life nothing may be missing."""
    for segment, follower in zip(tape.segments, [*tape.segments[1:], None], strict=True):
        if segment.damage:
            tape.damage.append(segment.damage)
        continues = follower is not None and follower.header.life == segment.header.life
        if segment.torn:
            (tape.damage if continues else tape.torn).append(segment.torn)
        if follower is None or not continues:
            continue
        reached = segment.header.entries_before + segment.num_entries
        if follower.header.entries_before != reached and not segment.torn:
            missing = follower.header.entries_before - reached
            tape.damage.append(f"{missing} entries are missing before {follower.path}")


def read_segment(path: Path) -> Segment:
    """One segment. Raises TapeError when there is no header or state to begin with."""
    data = path.read_bytes()
    frames, torn, damage = _frames(data, path)
    kinds = [kind for kind, _ in frames[:2]]
    if kinds != [HEADER, STATE]:
        raise TapeError(f"{path} has no header and state: {damage or torn or 'not a tape'}")
    try:
        header = _header.decode(frames[0][1])
        kind, packed = _state.decode(frames[1][1])
        state = unpack(kind, packed)
    except (RecordError, msgspec.MsgspecError) as error:
        raise TapeError(f"{path} is not of this version: {error}") from error
    if header.format != FORMAT:
        raise TapeError(f"{path} has format {header.format}, this version reads {FORMAT}")
    ended = bool(frames) and frames[-1][0] == END
    return Segment(path, header, state, frames[2:], torn, damage, ended)


def _frames(data: bytes, path: Path) -> tuple[list[tuple[int, bytes]], str, str]:
    """All good frames from the beginning, and why there are no more: torn, or damaged."""
    frames: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    while at < size:
        left = size - at
        if left < FRAME.size:
            return frames, f"{path}: {left} bytes of a frame after entry {_last(frames)}", ""
        length, crc, kind = FRAME.unpack_from(data, at)
        end = at + FRAME.size + length
        if end > size:
            text = f"{left} of {FRAME.size + length} bytes of a frame after entry {_last(frames)}"
            return frames, f"{path}: {text}", ""
        payload = data[at + FRAME.size : end]
        if zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != crc:
            text = f"{path}: the checksum at byte {at}, after entry {_last(frames)}, does not fit"
            if end == size or not any(data[at:]):
                return frames, text, ""
            return frames, "", text
        frames.append((kind, payload))
        at = end
    return frames, "", ""


def _last(frames: list[tuple[int, bytes]]) -> int:
    return len([1 for kind, _ in frames if kind == ENTRY])
