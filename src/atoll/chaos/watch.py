"""Seeing from the syncer's tapes and status what faults did: noticed, healed, merged, present.

Tapes carry the syncer's own time; every look at the status says which of our time that was, for
each epoch (a process of the syncer) anew. Must never guess: what the tapes do not show stays open.
"""

from __future__ import annotations

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
        return self.behind_s.get(seen.epoch, float("inf")) + seen.entry.now_s


@dataclass(slots=True)
class Watch:
    """Is told of faults, entries and looks, and fills in what became of the faults."""

    say: Say
    clocks: Clocks = field(default_factory=Clocks)
    struck: list[Struck] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    merges: int = 0
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
        """New entries, in order. Those of an epoch that was not looked at yet wait for a look."""
        entries, self._waiting = [*self._waiting, *seen], []
        for place, each in enumerate(entries):
            if self.clocks.ours_s(each) == float("inf"):
                self._waiting = entries[place:]
                return
            self._entry(self.clocks.ours_s(each), each.entry.event, each.entry.effects)

    def give_up_waiting(self) -> None:
        """The run is over: what has no time is read for what it says all the same."""
        entries, self._waiting = self._waiting, []
        for each in entries:
            self._entry(float("inf"), each.entry.event, each.entry.effects)

    def _entry(self, at_s: float, event: Any, effects: list[Any]) -> None:
        match event:
            case ev.Arrived() if not event.defect:
                self._arrived[event.cut.id, event.cut.fragment] = at_s
                while len(self._arrived) > ARRIVALS_KEPT:
                    del self._arrived[next(iter(self._arrived))]
            case ev.Disconnected():
                for each in self._open():
                    if each.who == event.learner and at_s >= each.done_s:
                        self._noticed(each, at_s)
            case msg.Report():
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
            self.work.merged(life, event.fragment, span)
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
                return id.incarnation > struck.incarnation
            arrived_s = self._arrived.get((id, order.fragment), at_s)
            return arrived_s >= struck.lifted_s
        return False

    # ------------------------------------------------------------ faults

    def _open(self) -> list[Struck]:
        return [each for each in self.struck if not each.is_healed]

    def _noticed(self, struck: Struck, at_s: float) -> None:
        if struck.noticed_s < 0 and at_s >= struck.done_s:
            struck.noticed_s = at_s
            self.say("noticed", struck)
