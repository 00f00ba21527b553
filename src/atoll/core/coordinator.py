"""CoordinatorCore: who takes part, on which data, how far the run is, and when it ends.

It never stands between a learner and a shard: while it is down nobody joins and no lease is
granted, but rounds go on, and what shards say of them is cumulative, so it catches up afterwards.

Durable before visible: a new incarnation, a lease and a change of phase are told only when their
record is. After a crash the driver restores the last durable snapshot, feeds every later record as
`RecordRecovered`, then says `Restarted`. Positions inside leases are kept by snapshots only: what
a crash forgets makes a lease return from further back, so data may be repeated but is never lost.

What the driver has to know: `Welcome` and `Rejected` go to the connection of the process they
name, `Replaced` to those of older incarnations, the rest to the learner's present connection.
A shard's connection is told like a learner's, as `Connected("shard-0", 0)`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from atoll.core import coordinator_state as cs
from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core import phases
from atoll.core.attendance import Attendance
from atoll.core.coordinator_desk import PROGRESS, Desk
from atoll.core.coordinator_state import CoordinatorState, Life, Record, RunSettings
from atoll.core.donors import Donors
from atoll.core.ids import TransferId, shard_of, shard_party
from atoll.core.leases import Lease
from atoll.core.membership import AWAY
from atoll.core.phases import INITIALISE, Phases
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings

__all__ = ["CoordinatorCore", "CoordinatorState", "RunSettings"]

NEVER = float("inf")


class CoordinatorCore:
    """Decides for the run. `handle` takes every event, in order."""

    def __init__(self, settings: ProtocolSettings, run: RunSettings, epoch: int = 1):
        cs.check_together(settings, run)
        shards = tuple(shard_party(index) for index in range(run.num_shards))
        state = cs.new_state(settings, run, epoch)
        self._desk = Desk(settings, run, state, shards)
        self._phases = Phases(self._desk)
        self._attendance = Attendance(self._desk, self._phases)
        self._donors = Donors(self._desk)
        self._handlers: dict[type, Callable[[Any], None]] = {
            msg.Report: self._report,
            msg.Beat: self._beat,
            msg.Hello: self._attendance.hello,
            msg.Leave: self._attendance.leave,
            msg.WantData: self._want_data,
            msg.DataPosition: self._data_position,
            msg.InitialOffered: self._initial_offered,
            msg.AskInner: self._ask_inner,
            msg.InnerOver: self._inner_over,
            msg.Settled: self._settled,
            msg.FragmentReady: self._phases.fragment_ready,
            msg.FragmentFinal: self._phases.fragment_final,
            ev.Connected: self._attendance.connected,
            ev.Disconnected: self._attendance.disconnected,
            ev.InnerArrived: self._donors.arrived,
            ev.Persisted: self._persisted,
            ev.RecordRecovered: self._recovered,
            ev.Restarted: self._restarted,
            ev.StopAsked: self._stop_asked,
            ev.Tick: self._tick,
        }

    # ------------------------------------------------------------ the driver's side

    def handle(self, now_s: float, event: object) -> list[fx.Effect]:
        """Take one event into account and say what is to be done."""
        assert math.isfinite(now_s), "the driver's clock must be finite"
        desk = self._desk
        desk.state.now_s = max(desk.state.now_s, now_s)
        desk.out = []
        handler = self._handlers.get(type(event))
        if handler is None:
            name = type(event).__name__
            desk.refuse("?", "unknown_event", f"the coordinator has no use for {name}")
        else:
            handler(event)
            if desk.state.asks and not desk.refused():
                self._donors.look()
        return desk.out

    def next_deadline_s(self) -> float:
        """When to send a `Tick`; infinity for not at all."""
        due_s = self.state.roster.next_deadline_s()
        if self.state.lease_ends:
            due_s = min(due_s, self.state.lease_ends[0][0])
        for at_s in self.state.deadlines.values():
            due_s = min(due_s, at_s)
        return min(due_s, self._donors.next_deadline_s())

    def snapshot(self) -> CoordinatorState:
        """An independent copy of all that this core is."""
        return copy.deepcopy(self.state)

    @classmethod
    def restore(
        cls, settings: ProtocolSettings, run: RunSettings, state: CoordinatorState
    ) -> CoordinatorCore:
        """A core that goes on exactly where the snapshot was taken."""
        cs.check_restored(settings, run, state)
        core = cls(settings, run)
        core._desk.state = copy.deepcopy(state)
        return core

    @property
    def state(self) -> CoordinatorState:
        """What the core knows; to be read only."""
        return self._desk.state

    def status(self) -> dict[str, Any]:
        """What a person or a status page wants to know, as plain values."""
        return phases.status(self._desk)

    # ------------------------------------------------------------ what learners say

    def _report(self, event: msg.Report) -> None:
        if not (event.tokens >= 0 and event.step >= 0 and 0 <= event.pace_s < NEVER):
            self._desk.refuse(event.learner, "malformed", "a report with impossible figures")
            return
        life = self._attendance.speaker_or_left(event.learner, event.incarnation)
        if life is None:
            return
        if not life.ending:
            self._step(event)
        state = self.state
        state.count_tokens(life, event.tokens)
        if state.trained >= self._desk.run.budget_tokens:
            self._phases.advance()

    def _step(self, event: msg.Report) -> None:
        roster, name = self.state.roster, event.learner
        member = roster.members[name]
        if event.step <= member.step or event.tokens < member.tokens:
            return
        if roster.stepped(name, self.state.now_s, event.step, event.tokens, event.pace_s):
            self._desk.note("steps_again", f"{name} makes steps again")

    def _beat(self, event: msg.Beat) -> None:
        desk = self._desk
        if not 0 <= event.step_age_s < NEVER or len(event.held) != desk.settings.P:
            desk.refuse(event.learner, "malformed", "a beat with impossible figures")
            return
        life = self._attendance.speaker(event.learner, event.incarnation)
        if life is None:
            self._attendance.tell_stale(event)
            return
        roster, name = self.state.roster, event.learner
        if event.busy:
            changed = roster.busy(name)
        else:
            changed = roster.idle(name, self.state.now_s, event.step_age_s, desk.settings)
        if changed:
            desk.note("busy", f"{name} makes no steps: {event.busy or 'none for a while'}")
        self._phases.repair(life, event.held)

    def _initial_offered(self, event: msg.InitialOffered) -> None:
        awaited = self.state.initialiser_life
        if event.incarnation != awaited or self.state.phase != cs.INITIAL:
            text = f"version 0 is not awaited from {event.learner}"
            self._desk.refuse(event.learner, "not_initialiser", text)
        elif self._attendance.speaker(event.learner, event.incarnation) is not None:
            self._phases.offered()

    def _ask_inner(self, event: msg.AskInner) -> None:
        good = self._donors.can_ask(event)
        if good and self._attendance.speaker(event.learner, event.incarnation) is not None:
            self._donors.ask(event)

    def _inner_over(self, event: msg.InnerOver) -> None:
        ask = self._donors.concerned(event)
        name = event.learner
        if ask is not None and self._attendance.speaker(name, event.incarnation) is not None:
            self._donors.over(ask, event)

    def awaits_inner(self, transfer: TransferId, index: int) -> bool:
        """Whether inner state may come in under this name: nobody else's is taken."""
        return self._donors.awaits(transfer, index)

    # ------------------------------------------------------------ what shards say

    def _settled(self, event: msg.Settled) -> None:
        state, fragment = self.state, event.fragment
        known = 0 <= fragment < self._desk.settings.P
        if not known or event.version < 0 or event.merged_tokens < 0:
            self._desk.refuse("shard", "malformed", f"impossible figures of fragment {fragment}")
            return
        state.merged[fragment] = max(state.merged[fragment], event.merged_tokens)
        shard = shard_of(fragment, len(self._desk.shards))
        for name, incarnation, position in event.through:
            life = state.lives.get(incarnation)
            if life is not None and life.learner == name and position >= 0:
                if shard in life.strangers:
                    life.strangers.remove(shard)
                self._settle(life, fragment, position)
        self._attendance.let_go(fragment, [incarnation for _, incarnation, _ in event.through])
        # What was merged was trained, by somebody whose last reports a crash may have forgotten.
        state.trained = max(state.trained, state.merged[fragment])
        self._phases.is_ready(fragment)
        self._phases.advance()

    def _settle(self, life: Life, fragment: int, position: int) -> None:
        before = life.through[fragment]
        if position <= before:
            return
        life.through[fragment] = position
        self.state.count_tokens(life, position)
        if before == life.floor:
            life.floor = min(life.through)
            if life.floor > before:
                self._desk.settle_leases(life)
                self._attendance.release_if_settled(life)

    # ------------------------------------------------------------ data

    def _want_data(self, event: msg.WantData) -> None:
        desk, name = self._desk, event.learner
        if event.ahead < 1:
            desk.refuse(name, "malformed", f"wants {event.ahead} leases")
        elif not self.state.leases.offers_data:
            desk.refuse(name, "no_data", "learners of this run bring their own data")
        elif self.state.phase in (cs.FINISHING, cs.ENDED):
            desk.refuse(name, "no_data", "the run is over")
        else:
            life = self._attendance.speaker(name, event.incarnation)
            if life is not None:
                self._grant_up_to(life, min(event.ahead, desk.run.leases_ahead))

    def _grant_up_to(self, life: Life, ahead: int) -> None:
        book, name = self.state.leases, life.learner
        waiting = book.waiting(life.incarnation)
        for lease in waiting:
            if lease.durable:
                self._send_granted(lease, "granted_again")
        for _ in range(ahead - len(waiting)):
            granted = book.grant(name, life.incarnation)
            if granted is None:
                self._desk.refuse(name, "no_data", "every stream is in somebody's hands")
                return
            reason = Reason("grant", f"lease {granted.number} for {name}")
            self._desk.record("grant", cs.lease_fields(granted), reason, wait=True)

    def _granted(self, record: Record) -> None:
        self.state.apply(record.kind, record.fields)
        lease = self.state.leases.held.get(int(record.fields["lease"]))
        if lease is not None and not self.state.lives[lease.incarnation].ending:
            self._send_granted(lease, "granted")

    def _send_granted(self, lease: Lease, code: str) -> None:
        granted = msg.Granted(
            self.state.epoch,
            lease.number,
            lease.turn,
            lease.first,
            lease.stop,
            lease.stream,
            lease.start,
        )
        self._desk.send((lease.learner,), granted, Reason(code, f"lease {lease.number}"))

    def _data_position(self, event: msg.DataPosition) -> None:
        name, incarnation = event.learner, event.incarnation
        life = self.state.lives.get(incarnation)
        if life is None or life.learner != name:
            self._desk.refuse_stale(name, incarnation)
            return
        wrong = self.state.leases.position(
            incarnation, event.lease, event.tokens, event.position, event.finished
        )
        if wrong:
            self._desk.refuse(name, "malformed", wrong)
            return
        self._attendance.speaker_or_left(name, incarnation)
        self._desk.settle_leases(life)

    # ------------------------------------------------------------ records and restarts

    def _persisted(self, event: ev.Persisted) -> None:
        record = self.state.pending.pop(event.number, None)
        if record is None:
            self._attendance.departure_is_durable(event.number)
        elif record.kind == "incarnation":
            self._attendance.begin_life(record)
        elif record.kind == "phase":
            self._phases.enter(record)
        else:
            self._granted(record)

    def _recovered(self, event: ev.RecordRecovered) -> None:
        state = self.state
        if not cs.knows(event.kind):
            self._desk.refuse("driver", "unknown_record", f"records are not {event.kind!r}")
        elif event.number in state.pending or event.number > state.record_number:
            self._apply_pending(event.number)
            state.pending.pop(event.number, None)
            state.record_number = max(state.record_number, event.number)
            state.apply(event.kind, dict(event.fields))

    def _apply_pending(self, before: float) -> None:
        """Records that were under way when the snapshot was taken, in the order they were made."""
        state = self.state
        for number in sorted(each for each in state.pending if each < before):
            record = state.pending.pop(number)
            state.apply(record.kind, record.fields)

    def _restarted(self, event: ev.Restarted) -> None:
        state = self.state
        assert event.epoch > state.epoch, "a takeover has a higher epoch"
        state.epoch = event.epoch
        self._apply_pending(math.inf)
        state.asking.clear()
        state.asks.clear()
        state.deadlines.clear()
        state.proposed = ""
        state.initialiser_life, state.heeded, state.offered = 0, False, False
        self._attendance.gather()
        members = len(state.roster.members)
        self._desk.note("restarted", f"epoch {state.epoch}; {members} learners may come back")
        self._attendance.roll_call(self._desk.shards)
        self._phases.send_finish(self._desk.shards)
        self._desk.arm_progress()
        self._phases.advance()

    def _stop_asked(self, event: ev.StopAsked) -> None:
        self._phases.stop(event.why)

    # ------------------------------------------------------------ deadlines

    def _tick(self, _: ev.Tick) -> None:
        state = self.state
        for name in state.roster.expire(state.now_s, self._desk.settings):
            member = state.roster.members[name]
            if member.state == AWAY:
                silence_s = self._desk.settings.silence_s
                life = state.lives[member.incarnation]
                self._attendance.is_away(life, f"not heard of for {silence_s:g} s")
            else:
                self._desk.note("busy", f"{name} makes no steps")
        self._attendance.end_leases()
        if state.deadlines.get(INITIALISE, NEVER) <= state.now_s:
            self._phases.initialiser_is_late()
        if state.deadlines.get(PROGRESS, NEVER) <= state.now_s:
            self._progress()

    def _progress(self) -> None:
        """Announce the run's progress, and repair what may have been lost on the way."""
        state = self.state
        del state.deadlines[PROGRESS]
        if state.phase != cs.INITIAL:
            self._phases.announce_progress()
        self._attendance.roll_call(self._desk.shards)
        self._attendance.farewells_again()
        self._phases.send_finish(self._desk.shards)
        self._desk.arm_progress()
