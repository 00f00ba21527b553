"""Facts from the tapes of shards and of the coordinator, in the order in which they were written.

Reads effects and accepted events; an event that was refused says nothing. Must never trust what a
state says beyond the point where its segment begins.
"""

from __future__ import annotations

from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import CutId, Mark
from atoll.core.shard_state import ShardState
from atoll.tape.facts import Called, Durable, LifeKey, MergedCut, Ordered, SyncerFacts, Told
from atoll.tape.read import Entry, PartyTape, Segment


def read_coordinator(tape: PartyTape, facts: SyncerFacts) -> None:
    """The coordinator's tape: its epochs."""
    epochs = facts.epochs.setdefault(tape.party, [])
    for life in tape.lives():
        for segment in life:
            for item in segment.items():
                if isinstance(item, Entry):
                    epochs += _epochs(item)


def read_shard(tape: PartyTape, facts: SyncerFacts) -> None:
    """A shard's tape, over all processes that wrote it."""
    reader = _ShardReader(tape, facts)
    for life in tape.lives():
        reader.begin(life[0])
        for segment in life:
            for item in segment.items():
                if isinstance(item, Entry):
                    reader.entry(segment, item)
        owned = {fragment.number for fragment in life[0].state.fragments}
        facts.owned |= owned
        if not life[-1].ended or tape.damage:
            facts.gaps |= owned
    last = tape.segments[-1]
    if not last.ended:
        facts.unfinished |= {fragment.number for fragment in last.state.fragments}


def _epochs(entry: Entry) -> list[tuple[int, bool]]:
    """Every epoch that an entry names: its own restart's, and those in what was said."""
    found = [(entry.event.epoch, True)] if isinstance(entry.event, ev.Restarted) else []
    for effect in entry.effects:
        if isinstance(effect, fx.Send):
            epoch = getattr(effect.message, "epoch", None)
            if epoch is not None:
                found.append((epoch, False))
    return found


class _ShardReader:
    """What has to be remembered between entries of one shard."""

    def __init__(self, tape: PartyTape, facts: SyncerFacts):
        self.party = tape.party
        self.facts = facts
        self.versions: dict[int, int] = {}
        self.orders: dict[tuple[int, int], fx.Merge] = {}
        self.seats: dict[str, int] = {}
        self.steps: dict[LifeKey, int] = {}
        self.agreed: dict[tuple[int, int], set[CutId]] = {}
        self.where = tape.party
        self.finishing = False

    def begin(self, segment: Segment) -> None:
        """A process begins where its state says; it may trail what was durable, until it is on."""
        state: ShardState = segment.state
        self.where = f"{self.party}, segment {segment.header.segment}"
        self.facts.epochs.setdefault(self.party, [])
        self.finishing = state.finish_limit_s > 0
        self.facts.admitted |= set(state.seats)
        self.seats = {name: seat.incarnation for name, seat in state.seats.items()}
        # What was heard after the snapshot is forgotten, and so it is here.
        members = state.roster.members
        self.steps = {(name, member.incarnation): member.step for name, member in members.items()}
        for fragment in state.fragments:
            number, version = fragment.number, fragment.version
            self.facts.oldest.setdefault(number, version)
            self.versions[number] = version
            if version > self.facts.newest.get(number, -1):
                self.facts.newest[number] = version
            if version >= 0:
                self.facts.note_digest(self.where, number, version, fragment.digest)
            for mark in fragment.marks.values():
                self._mark(number, mark)
            if fragment.merge is not None:
                self.orders[(number, fragment.merge.version)] = fragment.merge

    def entry(self, segment: Segment, entry: Entry) -> None:
        """One event and what came of it."""
        self.where = f"{self.party}, segment {segment.header.segment}, entry {entry.number}"
        refused = any(isinstance(effect, fx.Refuse) for effect in entry.effects)
        if not refused:
            self._event(entry.event)
        self.facts.epochs[self.party] += _epochs(entry)
        for effect in entry.effects:
            if isinstance(effect, fx.Merge):
                self._ordered(effect)
            elif isinstance(effect, fx.Send):
                self._sent(effect)

    def _event(self, event: Any) -> None:
        match event:
            case ev.InitialStored():
                # Said again when the first word was lost; then it changes nothing.
                if self.versions.get(event.fragment, -1) < 0:
                    self._durable(event.fragment, 0, event.digest)
            case ev.Merged():
                self._durable(event.fragment, event.version, event.digest)
                order = self.orders.get((event.fragment, event.version))
                for part in order.parts if order else ():
                    self._merged_part(event, part)
            case ev.MergeRecovered():
                if event.version > self.versions.get(event.fragment, -1):
                    self._durable(event.fragment, event.version, event.digest)
                for mark in event.marks:
                    self._mark(event.fragment, mark)
            case ev.Restarted():
                self._restarted()
            case msg.Admitted():
                held = self.seats.get(event.learner, 0)
                self.seats[event.learner] = max(held, event.incarnation)
                self.facts.admitted.add(event.learner)
            case msg.Finish():
                self.finishing = True
            case msg.Departed():
                if not event.left and self.seats.get(event.learner) == event.incarnation:
                    del self.seats[event.learner]
            case msg.Report():
                key = (event.learner, event.incarnation)
                self.steps[key] = max(self.steps.get(key, 0), event.step)

    def _durable(self, fragment: int, version: int, digest: str) -> None:
        facts, before = self.facts, self.versions.get(fragment, -1)
        facts.durable.append(Durable(self.where, fragment, version, before, digest))
        facts.note_digest(self.where, fragment, version, digest)
        self.versions[fragment] = version
        facts.newest[fragment] = max(facts.newest.get(fragment, -1), version)

    def _restarted(self) -> None:
        """From here on the shard speaks: what was durable before has to be there again."""
        for fragment, version in self.versions.items():
            newest = self.facts.newest.get(fragment, -1)
            if version < newest:
                text = f"fragment {fragment} came back at version {version}, {newest} was durable"
                self.facts.lost_versions.append(f"{self.where}: {text}")

    def _merged_part(self, event: ev.Merged, part: fx.Part) -> None:
        cut = part.cut
        merged = MergedCut(self.where, cut.id, event.fragment, event.version, cut)
        self.facts.merged.append(merged)

    def _mark(self, fragment: int, mark: Mark) -> None:
        """A cut that a durable record names; the order for it may have been on tape."""
        id = CutId(mark.learner, mark.incarnation, mark.cut)
        order = self.orders.get((fragment, mark.version))
        cuts = [part.cut for part in order.parts if part.cut.id == id] if order else []
        cut = cuts[0] if cuts else None
        self.facts.merged.append(MergedCut(self.where, id, fragment, mark.version, cut))

    def _ordered(self, order: fx.Merge) -> None:
        key = (order.fragment, order.version)
        # A merge that failed is ordered again; whoever was in it then was judged then.
        agreed = self.agreed.setdefault(key, set())
        strangers = tuple(
            part.cut.id
            for part in order.parts
            if part.cut.id not in agreed
            and self.seats.get(part.cut.id.learner) != part.cut.id.incarnation
        )
        agreed.update(part.cut.id for part in order.parts)
        self.orders[key] = order
        self.facts.orders.append(Ordered(self.where, *key, order.parts, strangers))

    def _sent(self, send: fx.Send) -> None:
        message, facts = send.message, self.facts
        if isinstance(message, msg.Published):
            durable = self.versions.get(message.fragment, -1)
            told = Told(self.where, message.fragment, message.version, message.digest, durable)
            facts.told.append(told)
        elif isinstance(message, msg.Call):
            for name in send.to:
                facts.sent_calls.add((name, message.fragment, message.number))
            if send.reason.code == "due" and not self.finishing:
                self._called(message)
        elif isinstance(message, msg.Dropped):
            facts.sent_drops.add((message.cut, message.fragment))

    def _called(self, call: msg.Call) -> None:
        version = self.versions.get(call.fragment, -1)
        called = Called(
            self.where, call.fragment, call.number, call.epoch, version, dict(self.steps)
        )
        self.facts.calls.append(called)
