"""LearnerCore: when a learner cuts, announces, uploads, fetches, installs and rejoins.

It never makes the training loop wait: it only leaves orders for the next boundary and learns from
the next `Boundary` which of them were carried out. Every token of its life has one fate in the
ledger of each fragment.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.heirs import Heirs
from atoll.core.ids import COORDINATOR
from atoll.core.learner_state import (
    APART,
    JOINING,
    LEASES_REMEMBERED,
    LEAVING,
    NEVER,
    OVER,
    TRAINING,
    Holding,
    LearnerState,
    Lending,
    Transfer,
)
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings


class LearnerCore(Heirs):
    """Decides for one learner. `handle` takes every event, in order."""

    def __init__(self, settings: ProtocolSettings, name: str, layout: str):
        super().__init__(settings, name, layout)
        self._handlers = self._of_the_driver() | self._of_the_syncer()

    def _of_the_driver(self) -> dict[type, Callable[[Any], None]]:
        return {
            ev.Tick: self._tick,
            ev.RestoreAsked: self._restore_asked,
            ev.JoinAsked: self._join_asked,
            ev.LinkUp: self._link_up,
            ev.LinkDown: self._link_down,
            ev.Boundary: self._boundary,
            ev.BusySince: self._busy_since,
            ev.BusyOver: self._busy_over,
            ev.Uploaded: self._uploaded,
            ev.UploadFailed: self._upload_failed,
            ev.Fetched: self._fetched,
            ev.FetchFailed: self._fetch_failed,
            ev.InitialUploaded: self._initial_uploaded,
            ev.InnerFetched: self._inner_fetched,
            ev.InnerFetchFailed: self._inner_fetch_failed,
            ev.InnerSent: self._inner_sent,
            ev.InnerNotSent: self._inner_not_sent,
            ev.LeaveAsked: self._leave_asked,
            ev.DataTaken: self._data_taken,
            ev.DataLow: self._data_low,
        }

    def _of_the_syncer(self) -> dict[type, Callable[[Any], None]]:
        return {
            msg.Welcome: self._welcome,
            msg.Rejected: self._rejected,
            msg.Initialise: self._initialise,
            msg.Begin: self._begin,
            msg.Granted: self._granted,
            msg.Progress: self._progress,
            msg.Finishing: self._finishing,
            msg.Ended: self._ended,
            msg.Replaced: self._replaced,
            msg.InnerHere: self._inner_here,
            msg.InnerNone: self._inner_none,
            msg.LendInner: self._lend_inner,
            msg.Call: self._called,
            msg.Published: self._published,
            msg.Dropped: self._dropped,
            msg.Wanted: self._wanted,
        }

    # ------------------------------------------------------------ the driver's side

    def handle(self, now_s: float, event: object) -> list[fx.Effect]:
        """Take one event into account and say what is to be done."""
        assert math.isfinite(now_s), "the driver's clock must be finite"
        self.state.now_s = max(self.state.now_s, now_s)
        self._out = []
        handler = self._handlers.get(type(event))
        if handler is None:
            self._refuse("unknown_event", f"a learner has no use for {type(event).__name__}")
        elif self.state.phase == OVER:
            self._refuse("over", "this learner takes no further part")
        elif self._epoch_is_right(event):
            handler(event)
            if not self._refused():
                self._keep_epoch(event)
                self._plan()
        return self._out

    def next_deadline_s(self) -> float:
        """When to send a `Tick`; infinity for not at all."""
        state = self.state
        if state.phase in (APART, OVER):
            return NEVER
        due_s = min(state.beat_at_s, state.hello_at_s, state.leave_at_s, state.restore.until_s)
        if self._now < state.settle_at_s:
            due_s = min(due_s, state.settle_at_s)
        for transfer in state.transfers:
            due_s = min(due_s, transfer.again_s)
        for holding in state.holdings:
            due_s = min(due_s, holding.fetch_again_s)
        return due_s

    def snapshot(self) -> LearnerState:
        """An independent copy of all that this core is."""
        return copy.deepcopy(self.state)

    @classmethod
    def restore(cls, settings: ProtocolSettings, layout: str, state: LearnerState) -> LearnerCore:
        """A core that goes on exactly where the snapshot was taken."""
        core = cls(settings, state.name, layout)
        core.state = copy.deepcopy(state)
        return core

    # ------------------------------------------------------------ joining

    def _join_asked(self, event: ev.JoinAsked) -> None:
        if self.state.phase != APART:
            self._refuse("unasked", "joining is under way already")
            return
        self.state.process, self.state.phase = event.process, JOINING
        self.state.beat_at_s = self._now + self.settings.beat_s
        self._connect(COORDINATOR)

    def _link_up(self, event: ev.LinkUp) -> None:
        if not self._is_party(event.party):
            return
        if self.state.phase == APART or self.state.links.get(event.party):
            return
        self.state.links[event.party] = True
        if event.party == COORDINATOR:
            self._hello()
        else:
            self._beat_to((event.party,))
            self._report_to((event.party,))

    def _link_down(self, event: ev.LinkDown) -> None:
        if not self._is_party(event.party):
            return
        if self.state.links.get(event.party):
            self.state.links[event.party] = False
            self._note("link_down", f"no connection to {event.party}: {event.why}")
        self._connect(event.party)

    def _is_party(self, party: str) -> bool:
        if party == COORDINATOR or party in self._shards():
            return True
        self._refuse("unasked", f"{party} is no party of this run")
        return False

    def _hello(self) -> None:
        state = self.state
        self.state.hello_at_s = self._now + self.settings.beat_s
        hello = msg.Hello(state.name, state.process, self.layout, state.incarnation)
        self._send((COORDINATOR,), hello, Reason("hello", ""))

    def _welcome(self, event: msg.Welcome) -> None:
        state = self.state
        other = event.process not in ("", state.process) or event.learner != state.name
        if event.incarnation < max(1, state.incarnation) or other or state.phase == APART:
            self._refuse("stale_incarnation", f"a welcome for life {event.incarnation}")
            return
        if not 1 <= event.num_shards <= self.settings.P:
            self._refuse("malformed", f"a syncer of {event.num_shards} shards")
            return
        state.hello_at_s = NEVER
        state.num_shards = event.num_shards
        if event.incarnation != state.incarnation:
            self._new_life(event.incarnation)
        if event.ready:
            self._begin(msg.Begin(event.epoch))
        for party in self._shards():
            if not state.links.get(party):
                self._connect(party)
        self._beat_to((COORDINATOR,))
        self._say_positions()

    def _new_life(self, incarnation: int) -> None:
        """Whatever an earlier life had in hand is void; every fragment is taken from the syncer."""
        state = self.state
        if state.incarnation:
            self._note("new_life", f"the session was over; life {incarnation} begins")
        for holding in state.holdings:
            for cut in holding.ledger.end(state.tokens, "died"):
                self._forget(cut, "died")
            self._withdraw(holding, "died")
            state.holdings[holding.number] = Holding(holding.number)
        state.incarnation = incarnation
        state.transfers, state.leases, state.taken, state.positions = [], [], [], []
        state.life_step, state.life_position = state.step, state.position
        state.trained = state.counted = 0
        state.lending = Lending()
        self._begin_again()

    def _rejected(self, event: msg.Rejected) -> None:
        if event.process not in ("", self.state.process) or event.learner != self.state.name:
            self._refuse("foreign", f"a rejection of process {event.process}")
        elif event.final:
            self._over(True, Reason(event.code, event.sentence))
        else:
            self._note(event.code, event.sentence)
            again_s = self._now + self.settings.beat_s
            self.state.hello_at_s = min(self.state.hello_at_s, again_s)

    def _initialise(self, event: msg.Initialise) -> None:
        if not self.state.initialising and not self.state.begun:
            self.state.initialising = True
            reason = Reason("initialise", f"version 0 is due within {event.deadline_s:.0f} s")
            self._out.append(fx.UploadInitial(reason))

    def _initial_uploaded(self, _: ev.InitialUploaded) -> None:
        self.state.initialising = False
        offered = msg.InitialOffered(self.state.name, self.state.incarnation)
        self._send((COORDINATOR,), offered, Reason("initialise", "version 0 was sent"))

    def _begin(self, _: msg.Begin) -> None:
        self.state.begun = True
        self._ask_inner()

    # ------------------------------------------------------------ what shards say

    def _called(self, event: msg.Call) -> None:
        holding = self._holding(event.fragment)
        longest = max(self.settings.H, 1 if self.settings.tau == "auto" else self.settings.tau)
        if holding is None or not 1 <= event.tau <= longest:
            self._refuse("malformed", f"a call of fragment {event.fragment}")
            return
        if event.number <= holding.last_call or self.state.phase != TRAINING:
            return
        holding.call = holding.last_call = event.number
        holding.called_s = self._now
        self.state.tau = event.tau

    def _published(self, event: msg.Published) -> None:
        holding = self._holding(event.fragment)
        marks = [mark for mark in event.merged_by if self._is_mine(mark.learner, mark.incarnation)]
        impossible = any(
            mark.version > event.version or mark.cut >= self.state.next_cut for mark in marks
        )
        if holding is None or event.version < 0 or impossible:
            self._refuse("malformed", f"a version of fragment {event.fragment}")
            return
        if event.version <= holding.latest:
            return
        holding.latest, holding.digest, holding.heard_s = event.version, event.digest, self._now
        for mark in marks:
            if mark.version > holding.mark_version:
                holding.mark_cut, holding.mark_version = mark.cut, mark.version

    def _dropped(self, event: msg.Dropped) -> None:
        holding = self._holding(event.fragment)
        if holding is None or not self._is_mine(event.cut.learner, event.cut.incarnation):
            self._refuse("foreign", f"the fate of {event.cut}")
            return
        if holding.mark_version > holding.base and holding.mark_cut >= event.cut.number:
            return
        self._drop_cut(event.fragment, event.cut.number, Reason(event.code, event.sentence))

    def _wanted(self, event: msg.Wanted) -> None:
        holding = self._holding(event.fragment)
        if holding is None or not self._is_mine(event.cut.learner, event.cut.incarnation):
            self._refuse("foreign", f"{event.cut} is wanted")
            return
        if holding.ledger.find(event.cut.number) and self._transfer(event.cut.number) is None:
            self.state.transfers.append(Transfer(event.fragment, event.cut.number))

    # ------------------------------------------------------------ what the coordinator says

    def _granted(self, event: msg.Granted) -> None:
        backwards = event.stream < 0 and not 0 <= event.first < event.stop
        if event.lease < 1 or event.turn < 0 or backwards:
            self._refuse("malformed", f"lease {event.lease} from {event.first} to {event.stop}")
            return
        if event.lease in self.state.leases:
            self._say_position(event.lease)
            return
        self.state.leases = [*self.state.leases, event.lease][-LEASES_REMEMBERED:]
        reason = Reason("granted", f"lease {event.lease}")
        self._out.append(fx.UseLease(event, reason))

    def _progress(self, event: msg.Progress) -> None:
        if event.budget <= 0 or not 0 <= event.yours <= event.trained:
            self._refuse("malformed", f"a budget of {event.budget} tokens")
            return
        if event.trained >= self.state.trained:
            self.state.trained, self.state.counted = event.trained, event.yours
            self.state.budget = event.budget

    def progress(self) -> float:
        """Share of the run's budget that is trained: monotone, at most 1."""
        state = self.state
        if state.budget > 0:
            tokens = state.trained + max(0, state.tokens - state.counted)
            share = 1.0 if tokens >= state.budget else tokens / state.budget
            state.progress = max(state.progress, share)
        return state.progress

    def _finishing(self, _: msg.Finishing) -> None:
        if not self.state.finishing:
            self.state.finishing = True
            self._note("finishing", "the budget is reached; one last round of every fragment")

    def _ended(self, event: msg.Ended) -> None:
        self._over(False, Reason("ended", f"the run is over: {event.why}"))

    def _replaced(self, event: msg.Replaced) -> None:
        if 0 < self.state.incarnation < event.incarnation:
            self._over(True, Reason("replaced", "a newer process joined under this name"))

    # ------------------------------------------------------------ data

    def _data_low(self, event: ev.DataLow) -> None:
        if event.ahead < 0:
            self._refuse("malformed", f"{event.ahead} leases ahead")
            return
        self.state.data_ahead = event.ahead
        self._want_data()

    def _want_data(self) -> None:
        if self.state.data_ahead and self.state.incarnation and self.state.begun:
            want = msg.WantData(self.state.name, self.state.incarnation, self.state.data_ahead)
            self._send((COORDINATOR,), want, Reason("data_low", ""))

    def _data_taken(self, event: ev.DataTaken) -> None:
        self.state.taken.append(
            msg.DataPosition(
                self.state.name,
                self.state.incarnation,
                0,
                event.lease,
                event.position,
                event.finished,
            )
        )

    # ------------------------------------------------------------ time

    def _tick(self, _: ev.Tick) -> None:
        state = self.state
        for holding in state.holdings:
            if holding.fetch_again_s <= self._now:
                holding.fetch_again_s = NEVER
        for transfer in state.transfers:
            if transfer.again_s <= self._now:
                transfer.again_s = NEVER
        if state.hello_at_s <= self._now:
            state.hello_at_s = NEVER
            if state.links.get(COORDINATOR):
                self._hello()
        if state.beat_at_s <= self._now:
            state.beat_at_s = self._now + self.settings.beat_s
            if state.incarnation:
                self._beat_to((COORDINATOR, *self._shards()))
                self._ask_inner()
                self._want_data()
                self._say_positions()
        if state.restore.until_s <= self._now:
            self._restore_is_late()
        if state.leave_at_s <= self._now:
            self._go(f"{state.leave_why}; the time to hand in is over")

    def _busy_since(self, event: ev.BusySince) -> None:
        self.state.busy = event.what or "busy"
        self._beat_to((COORDINATOR, *self._shards()))

    def _busy_over(self, _: ev.BusyOver) -> None:
        self.state.busy = ""
        self.state.stepped_s = self._now

    # ------------------------------------------------------------ leaving

    def _leave_asked(self, event: ev.LeaveAsked) -> None:
        state = self.state
        if state.phase != TRAINING:
            self._go(event.why)
            return
        state.phase, state.leave_why = LEAVING, event.why
        limit_s = event.limit_s if math.isfinite(event.limit_s) else 0.0
        state.settle_at_s = self._now + max(0.0, limit_s) / 2
        state.leave_at_s = self._now + max(0.0, limit_s)
        for holding in state.holdings:
            if holding.ledger.open(state.tokens) > 0:
                holding.call = -1
                holding.called_s = self._now
