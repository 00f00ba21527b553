"""Replay: the same events into the same core, held against the effects that were recorded.

Each segment is restored from its own state, so segments are independent of one another. Effects
compare by their fields and reason codes, states by checksum, merges by the digests of their bytes
where payloads were kept. Must never change a tape. Shows invariant 8, or where it broke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from atoll.core.coordinator import CoordinatorCore
from atoll.core.effects import Effect, Merge
from atoll.core.events import Merged
from atoll.core.learner import LearnerCore
from atoll.core.shard import ShardCore
from atoll.tape.format import PAYLOADS, BaseNote, Header, MergeNote, state_checksum
from atoll.tape.payloads import digest_of
from atoll.tape.read import Entry, Segment, StateCheck, TapeError, read_tapes

Core = ShardCore | CoordinatorCore | LearnerCore
CORE_FAILS = (AssertionError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""What a core may raise on events that cannot have happened to it."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Digests of a merge that was computed again, or why they cannot be had.

    `why_not`: something is missing here. `refused`: what was recorded cannot have been merged.
    """

    delta: str = ""
    published: str = ""
    why_not: str = ""
    refused: str = ""


class Recompute(Protocol):
    """Computes merges again; see `numbers.py`."""

    def begin(self, note: BaseNote, body: bytes) -> Recomputed:
        """A fragment's state before the merges that follow."""

    def __call__(self, note: MergeNote, order: Merge, bodies: Mapping[str, bytes]) -> Recomputed:
        """A merge again, from its order and its payloads by name of cut."""


@dataclass(slots=True)
class ReplayReport:
    """What a replay found. `first_difference` says where and what, "" for nowhere.

    `merges` is of those that became durable, `merges_recomputed` of those whose averaged
    displacement was computed again and held against the recorded one, `versions_recomputed` of
    those whose published bytes were.
    """

    equal: bool = True
    parties: int = 0
    segments: int = 0
    events: int = 0
    effects: int = 0
    state_checks: int = 0
    merges: int = 0
    merges_recomputed: int = 0
    versions_recomputed: int = 0
    first_difference: str = ""
    torn: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compared(self) -> str:
        """In words: what was held against what was recorded, and what was not."""
        if not self.merges:
            return "decisions; no merge is on tape"
        if not self.merges_recomputed:
            return f"decisions only: none of {self.merges} merges was computed again"
        return (
            f"decisions, and the numbers of {self.merges_recomputed} of {self.merges} merges, "
            f"{self.versions_recomputed} of them with their published bytes"
        )

    def differs(self, text: str) -> None:
        """Something was found; the first is kept."""
        self.equal = False
        self.first_difference = self.first_difference or text


def replay(root: Path, recompute: Recompute | None = None) -> ReplayReport:
    """Replay all tapes below a directory. Raises TapeError when there is none."""
    report = ReplayReport()
    for tape in read_tapes(root):
        report.parties += 1
        report.torn += tape.torn
        report.damage += tape.damage
        for life in tape.lives():
            _Life(report, recompute).run(life)
    for text in report.damage:
        report.differs(text)
    return report


def core_of(header: Header, state: Any) -> Core:
    """The core that a segment was recorded from, as it was at the segment's beginning."""
    settings = header.settings
    if header.role == "shard":
        return ShardCore.restore(settings, header.index, header.num_shards, state)
    if header.role == "learner":
        return LearnerCore.restore(settings, header.layout, state)
    if header.run is None:
        raise TapeError("the tape of a coordinator does not say which run it is of")
    return CoordinatorCore.restore(settings, header.run, state)


class _Life:
    """Replays the segments of one process, one after the other."""

    def __init__(self, report: ReplayReport, recompute: Recompute | None):
        self._report = report
        self._recompute = recompute
        self._orders: dict[tuple[int, int], Merge] = {}
        self._expected: dict[tuple[int, int], str] = {}
        self._noted: dict[tuple[int, int], str] = {}

    def run(self, segments: list[Segment]) -> None:
        """Replay them, and hold each one's beginning against the end of the one before."""
        end_checksum = -1
        for segment in segments:
            self._report.segments += 1
            where = f"{segment.header.party}, segment {segment.header.segment}"
            begin_checksum = state_checksum(segment.state)
            if end_checksum not in (-1, begin_checksum):
                self._report.differs(f"{where}: its state is not where the one before it ended")
            try:
                end_checksum = self._segment(segment, where)
            except (TapeError, *CORE_FAILS) as error:
                self._report.differs(f"{where}: {type(error).__name__}: {error}")
                end_checksum = -1

    def _segment(self, segment: Segment, where: str) -> int:
        """Replay one segment; the checksum of the state it ends in, -1 when that is not known."""
        core = core_of(segment.header, segment.state)
        for item in segment.items():
            if isinstance(item, Entry):
                if not self._entry(core, item, where):
                    return -1
            elif isinstance(item, StateCheck):
                self._report.state_checks += 1
                if _asked_checksum(core) != item.checksum:
                    at = f"{where}, after {self._report.events} events"
                    self._report.differs(f"{at}: the effects are equal, the state is not")
                    return -1
            elif isinstance(item, BaseNote):
                self._begin_again(item, segment, where)
            else:
                self._merge_again(item, segment, where)
        return -1 if segment.torn or segment.damage else _asked_checksum(core)

    def _entry(self, core: Core, entry: Entry, where: str) -> bool:
        at = f"{where}, entry {entry.number} at {entry.now_s:.3f} s, {entry.event}"
        # A driver asks after every event, and the answer may tidy up a heap.
        core.next_deadline_s()
        try:
            effects = core.handle(entry.now_s, entry.event)
        except CORE_FAILS as error:
            self._report.differs(f"{at}: the core refuses it: {type(error).__name__}: {error}")
            return False
        self._report.events += 1
        self._report.effects += len(effects)
        if effects != entry.effects:
            self._report.differs(f"{at}: {difference(entry.effects, effects)}")
            return False
        self._note_merges(entry, at)
        return True

    # ------------------------------------------------------------ numbers

    def _note_merges(self, entry: Entry, at: str) -> None:
        for effect in entry.effects:
            if isinstance(effect, Merge):
                self._orders[(effect.fragment, effect.version)] = effect
        if isinstance(entry.event, Merged):
            self._report.merges += 1
            key = (entry.event.fragment, entry.event.version)
            computed, noted = self._expected.pop(key, ""), self._noted.pop(key, "")
            self._report.versions_recomputed += int(bool(computed))
            for what, digest in (("computed", computed), ("noted with the merge", noted)):
                if digest not in ("", entry.event.digest):
                    text = f"recorded digest {entry.event.digest}, {what} {digest}"
                    self._report.differs(f"{at}: the published bytes differ: {text}")

    def _begin_again(self, note: BaseNote, segment: Segment, where: str) -> None:
        if self._recompute is None:
            return
        what = f"{where}, the state of fragment {note.fragment} at version {note.version}"
        path = segment.path.parent / PAYLOADS / note.payload
        if not path.is_file():
            self._report.notes.append(f"{what} was not kept: its versions are not compared")
            return
        body = path.read_bytes()
        changed = digest_of(body) != note.payload
        refused = "" if changed else self._recompute.begin(note, body).refused
        if changed or refused:
            text = refused or f"{path} has other bytes than were recorded"
            self._report.differs(f"{what}: {text}")

    def _merge_again(self, note: MergeNote, segment: Segment, where: str) -> None:
        self._noted[(note.fragment, note.version)] = note.published
        if self._recompute is None:
            return
        what = f"{where}, fragment {note.fragment} version {note.version}"
        order = self._orders.get((note.fragment, note.version))
        if order is None:
            found = Recomputed(why_not="the order for it is not on tape")
        else:
            found = _again(self._recompute, note, order, segment.path.parent / PAYLOADS)
        if found.refused:
            self._report.differs(f"{what} cannot have been merged: {found.refused}")
        elif found.why_not:
            self._report.notes.append(f"{what} is not computed again: {found.why_not}")
        else:
            self._compare(note, found, what)

    def _compare(self, note: MergeNote, found: Recomputed, what: str) -> None:
        self._report.merges_recomputed += 1
        if found.delta and note.delta and found.delta != note.delta:
            text = f"recorded digest {note.delta}, computed {found.delta}"
            self._report.differs(f"{what}: the merged displacement differs: {text}")
        if found.published:
            self._expected[(note.fragment, note.version)] = found.published


def difference(recorded: list[Effect], replayed: list[Effect]) -> str:
    """The first effect in which two lists differ."""
    for place, (was, now) in enumerate(zip(recorded, replayed, strict=False)):
        if was != now:
            return f"effect {place} was {was}, replayed it is {now}"
    longer, word = (recorded, "was") if len(recorded) > len(replayed) else (replayed, "replayed is")
    place = min(len(recorded), len(replayed))
    return (
        f"{len(recorded)} effects were recorded, {len(replayed)} replayed: {word} {longer[place]}"
    )


def _asked_checksum(core: Core) -> int:
    core.next_deadline_s()
    return state_checksum(core.state)


def _again(recompute: Recompute, note: MergeNote, order: Merge, folder: Path) -> Recomputed:
    """Read the payloads of a merge and compute it again."""
    bodies: dict[str, bytes] = {}
    for cut, _, digest in note.contributions:
        path = folder / digest
        if not digest or not path.is_file():
            return Recomputed(why_not=f"the payload of {cut} was not kept")
        bodies[cut] = path.read_bytes()
        if digest_of(bodies[cut]) != digest:
            text = f"the payload of {cut} is not the one that was recorded: {path}"
            return Recomputed(refused=text)
    return recompute(note, order, bodies)
