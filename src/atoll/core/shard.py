"""ShardCore: the rounds of the fragments that one shard of the syncer owns.

It calls a due fragment from every live learner, collects what arrives, closes the round when
quorum and grace say so, asks for the merge, and publishes only what is durable. A refused event
changes nothing. It needs the coordinator only to learn who was admitted and when the run ends.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.admission import BEYOND_COUNT
from atoll.core.grace import smooth
from atoll.core.ids import COORDINATOR, Cut
from atoll.core.membership import LIVE, Member
from atoll.core.reasons import Reason
from atoll.core.rounds import Rounds
from atoll.core.settings import ProtocolSettings
from atoll.core.shard_desk import NEVER
from atoll.core.shard_state import Fragment, Seat, ShardState

REMEMBERED = 4096


class ShardCore(Rounds):
    """Decides for the fragments of one shard. `handle` takes every event, in order."""

    def __init__(self, settings: ProtocolSettings, index: int, num_shards: int, epoch: int = 1):
        super().__init__(settings, index, num_shards, epoch)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.Tick: self._tick,
            ev.Connected: self._connected,
            ev.Disconnected: self._disconnected,
            ev.Arrived: self._arrived,
            ev.InitialStored: self._initial_stored,
            ev.Merged: self._merged,
            ev.MergeFailed: self._merge_failed,
            ev.MergeRecovered: self._recovered,
            ev.Restarted: self._restarted,
            msg.Report: self._report,
            msg.Beat: self._beat,
            msg.Announce: self._announced,
            msg.Admitted: self._admitted,
            msg.Departed: self._departed,
            msg.Finish: self._finish,
            msg.Leave: self._leaving,
        }

    # ------------------------------------------------------------ the driver's side

    def handle(self, now_s: float, event: object) -> list[fx.Effect]:
        """Take one event into account and say what is to be done."""
        assert math.isfinite(now_s), "the driver's clock must be finite"
        self.state.now_s = max(self.state.now_s, now_s)
        self._out = []
        handler = self._handlers.get(type(event))
        if handler is None:
            self._refuse("?", "unknown_event", f"a shard has no use for {type(event).__name__}")
        else:
            handler(event)
        return self._out

    def next_deadline_s(self) -> float:
        """When to send a `Tick`; infinity for not at all."""
        due_s = self.state.roster.next_deadline_s()
        for fragment in self.state.fragments:
            due_s = min(due_s, fragment.retry_at_s)
            if fragment.round is not None:
                due_s = min(due_s, self._judge(fragment.round).until_s)
        return due_s

    def snapshot(self) -> ShardState:
        """An independent copy of all that this core is."""
        return copy.deepcopy(self.state)

    @classmethod
    def restore(
        cls, settings: ProtocolSettings, index: int, num_shards: int, state: ShardState
    ) -> ShardCore:
        """A core that goes on exactly where the snapshot was taken."""
        core = cls(settings, index, num_shards)
        core.state = copy.deepcopy(state)
        return core

    # ------------------------------------------------------------ who is there

    def _tick(self, _: ev.Tick) -> None:
        for name in self.state.roster.expire(self._now, self.settings):
            self._presence_changed(name)
        for index, fragment in enumerate(self.state.fragments):
            if fragment.retry_at_s <= self._now and fragment.merge is not None:
                fragment.retry_at_s = NEVER
                self._out.append(fragment.merge)
            self._consider(index)
        self._call_due()

    def _admitted(self, event: msg.Admitted) -> None:
        seat = self.state.seats.get(event.learner)
        known = seat.incarnation if seat is not None else 0
        if event.incarnation <= max(known, self.state.over.get(event.learner, 0)):
            return
        if seat is not None:
            self._void(event.learner, "replaced", "a newer process took the learner's name")
        width = len(self.state.fragments)
        self.state.seats[event.learner] = Seat(
            event.incarnation,
            [0] * width,
            [0] * width,
            [0] * width,
            [0] * width,
            [(0, 0.0)] * width,
        )
        self.state.roster.admit(event.learner, event.incarnation)
        self.state.schedule.add(event.learner, 0, self.settings)
        if self.state.early.pop(event.learner, 0) == event.incarnation:
            self._connected(ev.Connected(event.learner, event.incarnation))

    def _departed(self, event: msg.Departed) -> None:
        self._is_over(event.learner, event.incarnation)
        seat = self.state.seats.get(event.learner)
        if seat is None or seat.incarnation != event.incarnation:
            return
        if event.left:
            self._retire(event.learner, seat)
        else:
            self._void(event.learner, event.code, f"the learner is gone: {event.code}")
            del self.state.seats[event.learner]
        self._look_around()

    def _is_over(self, name: str, incarnation: int) -> None:
        """A late `Admitted` must not bring this life back."""
        over = self.state.over
        over[name] = max(incarnation, over.pop(name, 0))
        if len(over) > REMEMBERED:
            del over[next(iter(over))]

    def _leaving(self, event: msg.Leave) -> None:
        seat = self.state.seats.get(event.learner)
        if seat is not None and seat.incarnation == event.incarnation:
            self._retire(event.learner, seat)
            self._look_around()

    def _retire(self, name: str, seat: Seat) -> None:
        seat.left = True
        self.state.roster.remove(name)
        self.state.schedule.remove(name)
        self._recount()
        self._watch_quorum()

    def _void(self, name: str, code: str, sentence: str) -> None:
        self.state.roster.remove(name)
        self.state.schedule.remove(name)
        for fragment in self.state.fragments:
            cuts = [fragment.fallback.pop(name, None)]
            if fragment.round is not None:
                cuts.append(fragment.round.arrived.pop(name, None))
                fragment.round.expected.pop(name, None)
            for cut in cuts:
                if cut is not None:
                    self._drop(cut, Reason(code, sentence), tell=False)
        self._recount()
        self._watch_quorum()

    def _connected(self, event: ev.Connected) -> None:
        member = self.state.roster.current(event.learner, event.incarnation)
        if member is None:
            seat = self.state.seats.get(event.learner)
            if seat is not None and seat.incarnation >= event.incarnation:
                self._refuse(event.learner, "stale_incarnation", "this life is over")
            elif len(self.state.early) < 4 * self.settings.M + 64:
                self.state.early[event.learner] = event.incarnation
            return
        self.state.roster.connect(event.learner, self._now, self.settings)
        self._presence_changed(event.learner)
        for fragment in self.state.fragments:
            if fragment.version >= 0:
                self._publish_to((event.learner,), fragment, "connected")
        self._look_around()

    def _disconnected(self, event: ev.Disconnected) -> None:
        self.state.early.pop(event.learner, 0)
        if self.state.roster.current(event.learner, event.incarnation) is not None:
            self.state.roster.disconnect(event.learner)
            self._presence_changed(event.learner)
            self._look_around()

    def _presence_changed(self, name: str) -> None:
        live = self.state.roster.members[name].state == LIVE
        self.state.schedule.set_counts(name, live)
        if live:
            self._call_again(name)
        self._recount()
        self._watch_quorum()

    def _call_again(self, name: str) -> None:
        """A learner is back: it may have missed a call, and a round below its quorum can use it."""
        has_work = self.state.roster.members[name].step > 0
        for index, fragment in enumerate(self.state.fragments):
            open_round = fragment.round
            if open_round is None:
                continue
            if open_round.awaits(name):
                self._send_call((name,), fragment, Reason("again", "the call may have been lost"))
            elif has_work and name not in open_round.expected and open_round.enough_s == NEVER:
                self._expect(open_round, index, name)
                self._send_call((name,), fragment, Reason("joins", "the round lacks its quorum"))

    def _recount(self) -> None:
        rounds = [f.round for f in self.state.fragments if f.round is not None]
        if rounds:
            live = {n: m.state == LIVE for n, m in self.state.roster.members.items()}
            for each in rounds:
                each.recount(live)
                self._note(each)

    def _look_around(self) -> None:
        for index in range(len(self.state.fragments)):
            self._consider(index)
        self._call_due()

    def _watch_quorum(self) -> None:
        live, since_s = self.state.schedule.num_counted, self.state.below_quorum_since_s
        needed = self.settings.quorum
        if live < needed and since_s < 0:
            self.state.below_quorum_since_s = self._now
            lowered = self.settings.on_quorum_loss == "degrade"
            what = "K is lowered to those that are there" if lowered else "nothing is merged"
            text = f"{live} learners are live, a round needs {needed}: {what}"
            self._out.append(fx.Note(Reason("quorum_lowered" if lowered else "quorum_lost", text)))
        elif live >= needed and since_s >= 0:
            self.state.below_quorum_since_s = -1.0
            text = f"{live} learners are live again after {self._now - since_s:.1f} s"
            self._out.append(fx.Note(Reason("quorum_back", text)))

    # ------------------------------------------------------------ what learners say

    def _report(self, event: msg.Report) -> None:
        if not 0 <= event.pace_s < NEVER or not 0 <= event.tokens < BEYOND_COUNT:
            self._refuse(event.learner, "malformed", "a report with impossible figures")
            return
        member = self._speaker(event.learner, event.incarnation)
        if member is None:
            return
        back = self.state.roster.heard(event.learner, self._now, self.settings)
        if event.step <= member.step or event.tokens < member.tokens:
            if back:
                self._presence_changed(event.learner)
            return
        returned = self.state.roster.stepped(
            event.learner, self._now, event.step, event.tokens, event.pace_s
        )
        if back or returned:
            self._presence_changed(event.learner)
        if self.state.schedule.report(event.learner, event.step) or back or returned:
            self._call_due()

    def _beat(self, event: msg.Beat) -> None:
        good = 0 <= event.step_age_s < NEVER and 0 <= event.fetch_s < NEVER
        if not good or len(event.held) != self.settings.P:
            self._refuse(event.learner, "malformed", "a beat with impossible figures")
            return
        if self._speaker(event.learner, event.incarnation) is None:
            return
        roster, name = self.state.roster, event.learner
        changed = roster.heard(name, self._now, self.settings)
        if event.busy:
            changed |= roster.busy(name)
        else:
            changed |= roster.idle(name, self._now, event.step_age_s, self.settings)
        if changed:
            self._presence_changed(name)
        self.state.seats[name].fetch_s = event.fetch_s
        self._repair(event)
        if changed:
            self._look_around()

    def _repair(self, event: msg.Beat) -> None:
        """Say again what the beat shows to be unknown: versions, calls, fates, missing bytes."""
        cuts = [cut for cut in event.outstanding if cut.id.learner == event.learner]
        outstanding = {cut.fragment: cut for cut in cuts}
        for fragment in self.state.fragments:
            settled = self._now >= fragment.published_s + self.settings.beat_s
            if event.held[fragment.number] < fragment.version and settled:
                self._publish_to((event.learner,), fragment, "behind")
            open_round = fragment.round
            if open_round is not None and open_round.awaits(event.learner):
                cut = outstanding.get(fragment.number)
                if cut is None or cut.call < open_round.number:
                    self._send_call((event.learner,), fragment, Reason("again", "not answered"))
        for cut in cuts:
            self._answer_outstanding(cut)

    def _answer_outstanding(self, cut: Cut) -> None:
        fragment = self._fragment(cut.fragment)
        if fragment is None or self._has(fragment, cut):
            return
        reason = self._refusal(cut, fragment)
        if reason.code:
            self._tell_dropped(cut, reason)
        else:
            wanted = msg.Wanted(self.state.epoch, cut.id, cut.fragment)
            self._send((cut.id.learner,), wanted, Reason("wanted", "its bytes are not here"))

    def _announced(self, event: msg.Announce) -> None:
        fragment = self._fragment(event.cut.fragment)
        if fragment is None:
            self._refuse(event.cut.id.learner, "malformed", "no fragment of this shard")
            return
        if self._speaker(event.cut.id.learner, event.cut.id.incarnation) is None:
            return
        reason = self._refusal(event.cut, fragment)
        if reason.code and not self._has(fragment, event.cut):
            self._tell_dropped(event.cut, reason)
            return
        announced = self.state.seats[event.cut.id.learner].announced
        index = self._index(fragment.number)
        if event.cut.id.number > announced[index][0]:
            announced[index] = (event.cut.id.number, self._now)

    def _arrived(self, event: ev.Arrived) -> None:
        cut, name = event.cut, event.cut.id.learner
        fragment = self._fragment(cut.fragment)
        if fragment is None or name not in self.state.seats:
            self._refuse(name, "foreign", f"cut {cut.id} of fragment {cut.fragment}")
            return
        if self._has(fragment, cut):
            self._refuse(name, "duplicate", f"cut {cut.id} is here already")
            return
        self._measure_arrival(fragment, cut)
        reason = self._refusal(cut, fragment)
        if event.defect and not reason.code:
            reason = Reason(event.defect, f"the bytes of {cut.id} are refused: {event.defect}")
        kept = fragment.fallback.get(name)
        if kept is not None and kept.id.number > cut.id.number:
            reason = reason if reason.code else Reason("replaced", f"{kept.id} is newer")
        if reason.code:
            self._count_refused(reason.code)
            self._drop(cut, reason)
            return
        self._take(fragment, cut)

    def _measure_arrival(self, fragment: Fragment, cut: Cut) -> None:
        """How long this learner takes from call to arrival, late or refused ones included."""
        seat, index = self.state.seats[cut.id.learner], self._index(fragment.number)
        took_s = self._now - fragment.called_s(cut.call)
        news = cut.id.incarnation == seat.incarnation and cut.call > seat.answered[index]
        if news and took_s >= 0:
            seat.answered[index] = cut.call
            seat.arrive_s = smooth(seat.arrive_s, took_s)
            number, at_s = seat.announced[index]
            if number == cut.id.number:
                seat.upload_s = smooth(seat.upload_s, self._now - at_s)

    def _take(self, fragment: Fragment, cut: Cut) -> None:
        name, index = cut.id.learner, self._index(fragment.number)
        seat = self.state.seats[name]
        member = self.state.roster.current(name, seat.incarnation)
        if member is not None and self.state.roster.heard(name, self._now, self.settings):
            self._presence_changed(name)
        older = fragment.fallback.pop(name, None)
        if older is not None:
            self._drop(older, Reason("replaced", f"the newer cut {cut.id} holds its work"))
        open_round = fragment.round
        here = open_round.arrived.get(name) if open_round is not None else None
        if open_round is not None and here is not None:
            newer, older = (cut, here) if cut.id.number > here.id.number else (here, cut)
            open_round.arrived[name] = newer
            self._drop(older, Reason("replaced", f"the newer cut {newer.id} holds its work"))
        elif open_round is not None and cut.call == open_round.number and open_round.awaits(name):
            live = member is not None and member.state == LIVE
            open_round.arrive(name, cut, waited_for=live)
            self._consider(index)
        else:
            fragment.fallback[name] = cut

    # ------------------------------------------------------------ ends and restarts

    def _finish(self, event: msg.Finish) -> None:
        if not math.isfinite(event.limit_s):
            self._refuse(COORDINATOR, "malformed", f"last rounds within {event.limit_s} s")
            return
        if self.state.finish_limit_s > 0:
            for fragment in self.state.fragments:
                if fragment.final:
                    self._send_final(fragment)
            return
        self.state.finish_limit_s = max(self.settings.min_round_s, event.limit_s)
        for index, fragment in enumerate(self.state.fragments):
            if fragment.version < 0:
                self._finalize(fragment)
            elif fragment.at_rest:
                self._call_last(index)
            elif fragment.round is not None:
                until_s = self._now + self.state.finish_limit_s
                fragment.round.last = True
                fragment.round.deadline_s = min(fragment.round.deadline_s, until_s)

    def _restarted(self, event: ev.Restarted) -> None:
        state = self.state
        assert event.epoch > state.epoch, "a takeover has a higher epoch"
        state.epoch = event.epoch
        state.early.clear()
        for name in state.roster.members:
            state.roster.disconnect(name)
        state.schedule.restarted()
        for fragment in state.fragments:
            fragment.round = fragment.merge = None
            fragment.retry_at_s, fragment.retry_pause_s = NEVER, 0.0
            fragment.fallback.clear()
            fragment.last_called = False
            fragment.round_number = max(fragment.round_number, event.epoch << 20)
            if fragment.version >= 0:
                ready = msg.FragmentReady(fragment.number)
                self._send((COORDINATOR,), ready, Reason("restarted", ""))
                self._send((COORDINATOR,), self._settled(fragment), Reason("restarted", ""))
        if state.finish_limit_s > 0:
            limit_s, state.finish_limit_s = state.finish_limit_s, 0.0
            self._finish(msg.Finish(limit_s))

    def _recovered(self, event: ev.MergeRecovered) -> None:
        fragment = self._fragment(event.fragment)
        if fragment is None or event.version <= fragment.version:
            return
        fragment.round = fragment.merge = None
        self._apply(fragment, event.version, event.digest, event.marks, event.through)
        period = self.settings.period_steps(event.version - 1)
        self.state.schedule.recovered(self._index(event.fragment), period)
        fragment.merged_tokens = event.merged_tokens
        fragment.round_number = max(fragment.round_number, event.round)

    def _speaker(self, name: str, incarnation: int) -> Member | None:
        member = self.state.roster.current(name, incarnation)
        if member is None:
            self._refuse(name, "stale_incarnation", f"no present life {incarnation} of {name}")
            return None
        if not member.connected:
            self.state.roster.connect(name, self._now, self.settings)
            self._presence_changed(name)
        return member
