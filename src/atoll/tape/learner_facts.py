"""Facts from the tape of a learner: its cuts, boundaries, what it heard, and the fates of cuts.

The ledger is told by acts (cut, merged, set) in the order in which they happened, without asking
the core's own ledger; where a segment begins, the state's ledger is held against them.
"""

from __future__ import annotations

from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import COORDINATOR, Cut, shard_of, shard_party
from atoll.core.learner_state import JOINING, OVER, LearnerState
from atoll.tape.facts import Act, Heard, LearnerFacts, LifeFacts, Passed
from atoll.tape.format import Header
from atoll.tape.read import Entry, PartyTape, Segment


def read_learner(tape: PartyTape, facts: LearnerFacts) -> None:
    """A learner's tape, over all processes that wrote it."""
    facts.names.add(tape.party)
    for number, life in enumerate(tape.lives()):
        reader = _LearnerReader(life[0], facts, f"{tape.party}#{number}")
        for segment in life:
            reader.hold_against(segment)
            for item in segment.items():
                if isinstance(item, Entry):
                    reader.entry(segment, item)
        reader.end(life[-1])


class _LearnerReader:
    """What has to be remembered between entries of one process of a learner."""

    def __init__(self, segment: Segment, facts: LearnerFacts, process: str):
        state: LearnerState = segment.state
        self.facts = facts
        self.process = process
        self.header: Header = segment.header
        self.where = f"{self.header.party}, segment {self.header.segment}"
        self.position, self.life_position = state.position, state.life_position
        self.num_shards, self.tau = state.num_shards, state.tau
        self.joining = state.phase == JOINING or not state.incarnation
        self.installs: dict[int, str] = {}
        self.cut_orders: dict[int, int] = {}
        for holding in state.holdings:
            if holding.install is not None:
                self.installs[holding.number] = holding.install.rule
            if holding.cut is not None:
                self.cut_orders[holding.number] = holding.cut.id.number
        self.life = self._begin_life(state.incarnation, state)

    @property
    def tokens(self) -> int:
        """Tokens trained in this life."""
        return self.position - self.life_position

    def _begin_life(self, incarnation: int, state: LearnerState | None = None) -> LifeFacts:
        life = LifeFacts(self.header.party, incarnation)
        life.from_begin = state is None or not state.incarnation
        self.facts.lives[(life.learner, incarnation)] = life
        holdings = state.holdings if state is not None else []
        for holding in holdings:
            begun = Act(self.where, "begun", holding.ledger.origin, self.tokens)
            life.acts[holding.number] = [begun]
            for cut in holding.ledger.outstanding:
                life.cuts[(cut.fragment, cut.id.number)] = cut
                life.last_cut = max(life.last_cut, cut.id.number)
        return life

    def hold_against(self, segment: Segment) -> None:
        """The core's own books, where they are on tape, have neither gap nor overlap."""
        state: LearnerState = segment.state
        if state.phase == OVER:
            return
        for holding in state.holdings:
            off = holding.ledger.balance(state.tokens)
            if off:
                where = f"{self.header.party}, segment {segment.header.segment}"
                self.facts.ledgers.append(f"{where}: fragment {holding.number} is off by {off}")

    def end(self, segment: Segment) -> None:
        """The process is over, or its tape is."""
        self.life.to_end = segment.ended
        self.life.tokens = self.tokens

    # ------------------------------------------------------------ entries

    def entry(self, segment: Segment, entry: Entry) -> None:
        """One event and what came of it."""
        self.where = f"{self.header.party}, segment {segment.header.segment}, entry {entry.number}"
        refusals = [e.reason.code for e in entry.effects if isinstance(e, fx.Refuse)]
        if isinstance(entry.event, ev.Boundary):
            # "unasked" refuses one fragment of a boundary, not the boundary.
            if all(code == "unasked" for code in refusals):
                self._boundary(entry.event, entry.effects)
        elif not refusals:
            self._heard(entry.event)
        is_over = any(isinstance(effect, fx.Over) for effect in entry.effects)
        for effect in entry.effects:
            self._effect(effect, is_over)

    def _heard(self, event: Any) -> None:
        epoch = getattr(event, "epoch", None)
        if epoch is not None:
            party = self._party(event)
            self.facts.epochs.setdefault(f"{self.process} of {party}", []).append(epoch)
        match event:
            case msg.Welcome():
                self.num_shards = event.num_shards
                if event.incarnation != self.life.incarnation:
                    self.life.tokens = self.tokens
                    self.life.to_end = True
                    self.life_position = self.position
                    self.installs, self.cut_orders = {}, {}
                    self.life = self._begin_life(event.incarnation)
            case msg.Call():
                self.tau = max(self.tau, event.tau)
                heard = (self.where, self.life.learner, event.fragment, event.number)
                self.facts.heard_calls.append(heard)
            case msg.Published():
                heard_version = Heard(self.where, event.fragment, event.version, event.digest)
                self.facts.heard.append(heard_version)
            case msg.Dropped():
                self.facts.heard_drops.append((self.where, event.cut, event.fragment))

    def _party(self, event: Any) -> str:
        fragment = getattr(event, "fragment", None)
        if fragment is None:
            return COORDINATOR
        return shard_party(shard_of(fragment, max(1, self.num_shards)))

    def _boundary(self, event: ev.Boundary, effects: list[Any]) -> None:
        self.position = max(self.position, event.tokens)
        settings = self.header.settings
        limit = settings.installs_at_a_boundary(self.tau)
        limit = settings.P if self.joining else limit
        if event.cuts or event.installs:
            passed = Passed(self.where, len(event.cuts), len(event.installs), limit)
            self.facts.passed.append(passed)
        forgotten = [effect for effect in effects if isinstance(effect, fx.Forget)]
        merged = {e.fragment: e.cut.number for e in forgotten if e.reason.code == "merged"}
        for fragment in event.installs:
            if fragment in self.installs:
                self._installed(fragment, merged.get(fragment, 0))
        empty = [e.cut.number for e in forgotten if e.reason.code == "empty"]
        for fragment in event.cuts:
            number = self.cut_orders.pop(fragment, 0)
            if number and number not in empty:
                self._act(fragment, "cut", number)
                self.life.taken.add((fragment, number))
                self.life.last_cut = max(self.life.last_cut, number)

    def _installed(self, fragment: int, merged: int) -> None:
        if merged:
            self._act(fragment, "merged", merged)
        if self.installs.pop(fragment) == "set":
            self._act(fragment, "set", 0)

    def _act(self, fragment: int, kind: str, number: int) -> None:
        acts = self.life.acts.setdefault(fragment, [Act(self.where, "begun", 0, 0)])
        acts.append(Act(self.where, kind, number, self.tokens))

    def _effect(self, effect: Any, is_over: bool) -> None:
        match effect:
            case fx.Upload():
                self._cut_known(effect.cut)
            case fx.Send():
                if isinstance(effect.message, msg.Announce):
                    self._cut_known(effect.message.cut)
            case fx.CutOrder():
                self.cut_orders[effect.fragment] = effect.id.number
            case fx.InstallOrder():
                self.installs[effect.fragment] = effect.rule
            case fx.Withdraw():
                self.cut_orders.pop(effect.fragment, None)
                self.installs.pop(effect.fragment, None)
            case fx.Forget():
                code = "over" if is_over else effect.reason.code
                self.life.fates.setdefault((effect.fragment, effect.cut.number), code)
            case fx.Joined():
                self.joining = False

    def _cut_known(self, cut: Cut) -> None:
        known = self.life.cuts.setdefault((cut.fragment, cut.id.number), cut)
        if known != cut:
            self.life.two_cuts.append(f"{self.where}: {cut.id} is {known} and {cut}")
