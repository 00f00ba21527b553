"""Seeing from the syncer's tapes and status what faults did: noticed, healed, merged, present.

Tapes carry the syncer's own time; every look at the status says which of our time that was, for
each epoch (a process of the syncer) anew. Must never guess: what the tapes do not show stays open,
and an entry of an epoch that no status ever showed has no time, so it counts for merged work, and
nothing is noticed or healed by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.chaos.kinds import SYNCER
from atoll.chaos.record import Struck
from atoll.chaos.tail import Seen
from atoll.chaos.work import Work
from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import CutId
from atoll.tape.facts import LifeKey

Say = Callable[[str, Struck], None]
ARRIVALS_KEPT = 4096


@dataclass(slots=True)
class Clocks:
    """The syncer's time of each epoch as ours."""

    behind_s: dict[int, float] = field(default_factory=dict)

    def look(self, at_s: float, status: dict[str, Any]) -> None:
        """A status that was had at `at_s`: the smallest difference is the true one."""
        if "now_s" in status:
            epoch, difference_s = int(status["epoch"]), at_s - float(status["now_s"])
            self.behind_s[epoch] = min(difference_s, self.behind_s.get(epoch, difference_s))

    def ours_s(self, seen: Seen) -> float:
        """When an entry happened; infinity where the epoch was never looked at."""
        return self.behind_s.get(seen.epoch, math.inf) + seen.entry.now_s

    def may_come(self, epoch: int) -> bool:
        """A status of this epoch can still be had: epochs only rise."""
        return epoch > max(self.behind_s, default=-1)


@dataclass(slots=True)
class Watch:
    """Is told of faults, entries and looks, and fills in what became of the faults."""

    say: Say
    clocks: Clocks = field(default_factory=Clocks)
    struck: list[Struck] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    merges: int = 0
    lives: dict[str, int] = field(default_factory=dict)
    """The newest life of each learner that a status or a tape ever showed."""
    _orders: dict[tuple[int, int], fx.Merge] = field(default_factory=dict)
    _arrived: dict[tuple[CutId, int], float] = field(default_factory=dict)
    _waiting: list[Seen] = field(default_factory=list)

    # ------------------------------------------------------------ status

    def look(self, at_s: float, status: dict[str, Any]) -> None:
        """How the run stands, as the syncer says."""
        self.clocks.look(at_s, status)
        learners, trouble = status.get("learners", {}), status.get("trouble", "")
        for each in self._open():
            if each.who == SYNCER:
                noticed = each.fault.kind == "disk_full" and trouble
            else:
                member = learners.get(each.who)
                noticed = member is not None and member["state"] != "live"
            if noticed:
                self._noticed(each, at_s)
        for name, member in learners.items():
            self._lived(name, int(member["incarnation"]))
        for each in self.struck:
            self._steps_again(each, learners.get(each.who, {}), at_s)

    def _steps_again(self, struck: Struck, member: dict[str, Any], at_s: float) -> None:
        if struck.fault.kind != "kill" or struck.steps_s >= 0 or not member:
            return
        if member["incarnation"] > struck.incarnation and member["step"] > 0:
            struck.steps_s = at_s

    def syncer_silent(self, at_s: float) -> None:
        """Its process has died, or it does not answer."""
        for each in self._open():
            if each.who == SYNCER and each.group != "lie":
                self._noticed(each, at_s)

    # ------------------------------------------------------------ tapes

    def read(self, seen: list[Seen]) -> None:
        """New entries, in order. Those of an epoch that was not looked at yet wait for a look.

        Where a later one was looked at already, they wait no longer: they never get a time.
        """
        entries, self._waiting = [*self._waiting, *seen], []
        for place, each in enumerate(entries):
            at_s = self.clocks.ours_s(each)
            if at_s == math.inf and self.clocks.may_come(each.epoch):
                self._waiting = entries[place:]
                return
            self._entry(at_s, each.entry.event, each.entry.effects)

    def give_up_waiting(self) -> None:
        """The run is over: what has no time is read for what it says all the same."""
        entries, self._waiting = self._waiting, []
        for each in entries:
            self._entry(self.clocks.ours_s(each), each.entry.event, each.entry.effects)

    def _entry(self, at_s: float, event: Any, effects: list[Any]) -> None:
        has_time = at_s < math.inf
        match event:
            case ev.Arrived() if has_time and not event.defect:
                self._arrived[event.cut.id, event.cut.fragment] = at_s
                while len(self._arrived) > ARRIVALS_KEPT:
                    del self._arrived[next(iter(self._arrived))]
            case ev.Disconnected() if has_time:
                for each in self._open():
                    if each.who == event.learner and at_s >= each.done_s:
                        self._noticed(each, at_s)
            case msg.Report() if has_time:
                self._lived(event.learner, event.incarnation)
                self.work.reported((event.learner, event.incarnation), at_s, event.tokens)
            case ev.MergeRecovered():
                for learner, incarnation, end in event.through:
                    self.work.merged_through((learner, incarnation), event.fragment, end)
            case ev.Merged():
                self._merged(at_s, event)
            case _:
                pass
        for effect in effects:
            if isinstance(effect, fx.Merge):
                self._orders[effect.fragment, effect.version] = effect

    def _merged(self, at_s: float, event: ev.Merged) -> None:
        order = self._orders.pop((event.fragment, event.version), None)
        if order is None:
            return
        self.merges += 1
        for part in order.parts:
            cut = part.cut
            life, span = (cut.id.learner, cut.id.incarnation), (cut.first_token, cut.end_token)
            self._lived(*life)
            self.work.merged(life, event.fragment, span)
        if at_s == math.inf:
            return
        for each in self._open():
            if each.is_lifted and self._heals(each, order, at_s):
                each.healed_s = at_s
                self.say("healed", each)

    def _heals(self, struck: Struck, order: fx.Merge, at_s: float) -> bool:
        if at_s < struck.lifted_s:
            return False
        if struck.who == SYNCER:
            return True
        for part in order.parts:
            id = part.cut.id
            if id.learner != struck.who:
                continue
            if struck.is_kill:
                return self._is_after(struck, (id.learner, id.incarnation))
            arrived_s = self._arrived.get((id, order.fragment))
            return arrived_s is not None and arrived_s >= struck.lifted_s
        return False

    def _is_after(self, struck: Struck, life: LifeKey) -> bool:
        """A later life than the killed one, which had not said anything before the kill."""
        reports = self.work.reports.get(life)
        said_before = reports is not None and reports[0][0] < struck.done_s
        return life[1] > struck.incarnation and not said_before

    def _lived(self, learner: str, incarnation: int) -> None:
        self.lives[learner] = max(incarnation, self.lives.get(learner, 0))

    # ------------------------------------------------------------ faults

    def _open(self) -> list[Struck]:
        return [each for each in self.struck if not each.is_healed]

    def _noticed(self, struck: Struck, at_s: float) -> None:
        if struck.noticed_s < 0 and at_s >= struck.done_s:
            struck.noticed_s = at_s
            self.say("noticed", struck)
