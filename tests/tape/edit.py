"""Changing a good tape on purpose, with right checksums, so that only its story is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from atoll.core.effects import Send
from atoll.tape.format import END, ENTRY, HEADER, STATE, encode, frame, segment_files
from atoll.tape.read import Entry, Segment, read_segment
from atoll.wire.records import pack, packable

Change = Callable[[Entry], Entry | None]


def edit(root: Path, party: str, change: Change) -> int:
    """Rewrite a party's tape; `change` gives a new entry, or None to leave one out."""
    changed = 0
    for _, path in segment_files(root / party):
        segment = read_segment(path)
        entries = iter([item for item in segment.items() if isinstance(item, Entry)])
        data = head(segment)
        for kind, payload in segment.frames:
            if kind == ENTRY:
                entry = next(entries)
                again = change(entry)
                changed += again != entry
                data += packed(again) if again is not None else b""
            else:
                data += frame(kind, payload)
        path.write_bytes(data)
    return changed


def cut_off(root: Path, party: str) -> None:
    """As if the process had been killed after the last entry: nothing says that it is over."""
    for _, path in segment_files(root / party):
        segment = read_segment(path)
        if not segment.num_entries:
            path.unlink()
            continue
        frames = [frame(kind, payload) for kind, payload in segment.frames if kind != END]
        path.write_bytes(head(segment) + b"".join(frames))


def edit_state(root: Path, party: str, change: Callable[[Any], None], segment: int = -1) -> None:
    """Change the state with which a segment begins."""
    _, path = segment_files(root / party)[segment]
    found = read_segment(path)
    change(found.state)
    data = head(found) + b"".join(frame(kind, payload) for kind, payload in found.frames)
    path.write_bytes(data)


def head(segment: Segment) -> bytes:
    state = frame(STATE, encode(pack(segment.state)))
    return frame(HEADER, encode(segment.header)) + state


def packed(entry: Entry) -> bytes:
    kind, value = packable(entry.event)
    wanted = [packable(effect) for effect in entry.effects]
    return frame(ENTRY, encode((entry.now_s, kind, value, wanted)))


def once(change: Change, skip: int = 0) -> Change:
    """Apply a change only to the first entry that it changes, after passing over some."""
    left = [skip, 1]

    def only(entry: Entry) -> Entry | None:
        if not left[1]:
            return entry
        again = change(entry)
        if again == entry:
            return entry
        if left[0]:
            left[0] -= 1
            return entry
        left[1] = 0
        return again

    return only


def on_effect(kind: type, change: Callable[[Any], Any]) -> Change:
    """Change each effect of a kind."""

    def changed(entry: Entry) -> Entry:
        effects = [change(each) if isinstance(each, kind) else each for each in entry.effects]
        return replace(entry, effects=effects)

    return changed


def on_message(kind: type, change: Callable[[Any], Any]) -> Change:
    """Change each message of a kind that was sent."""

    def changed(send: Send) -> Send:
        if isinstance(send.message, kind):
            return replace(send, message=change(send.message))
        return send

    return on_effect(Send, changed)


def on_event(kind: type, change: Callable[[Any], Any]) -> Change:
    """Change each event of a kind."""

    def changed(entry: Entry) -> Entry:
        if isinstance(entry.event, kind):
            return replace(entry, event=change(entry.event))
        return entry

    return changed
