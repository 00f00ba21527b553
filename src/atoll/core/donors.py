"""Inner optimizer state, the coordinator's side: who gives it to whom, and until when.

A learner that joins a run under way asks. The donor is a live peer that has made `WARM_STEPS`
steps, does not lend to anybody else and can hand over every fragment in the time that is left: the
one with the most steps. It is asked for one fragment after another, each when the one before has
come, so it never does more than one copy at a boundary, and the syncer never holds more than
`WINDOW` fragments.

A donor that is lost, refuses or goes silent is followed by the next one. With nobody left the
learner is told why. Nothing here is durable: after a restart the learners ask again.
"""

from __future__ import annotations

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator_desk import Desk
from atoll.core.coordinator_state import TRAINING, Ask
from atoll.core.ids import NO_TRANSFER, TransferId
from atoll.core.membership import AWAY, BUSY, LIVE, Member
from atoll.core.reasons import Reason

NEVER = float("inf")
WINDOW = 2
"""Fragments of one transfer that may lie with the syncer."""
WARM_STEPS = 20
"""Steps after which a learner that began anew has a state worth taking, and its full pace."""
GIVEN_UP = "given_up"


class Donors:
    """The part of the coordinator that finds donors of inner state."""

    def __init__(self, desk: Desk):
        self._desk = desk

    # ------------------------------------------------------------ what is heard

    def can_ask(self, event: msg.AskInner) -> bool:
        """Refuses what makes no sense, whoever says it."""
        good = event.kind and 0 <= event.left_s < NEVER
        if not good or not 0 <= event.taken <= self._desk.settings.P or event.attempt < 0:
            self._desk.refuse(event.learner, "malformed", "asks for inner state impossibly")
            return False
        return True

    def ask(self, event: msg.AskInner) -> None:
        """A live learner asks, or says how far it is."""
        state, settings = self._desk.state, self._desk.settings
        ask = state.asks.get(event.incarnation)
        if ask is None:
            self._begin(event)
            return
        ask.until_s = state.now_s + event.left_s
        goes_on = event.attempt == ask.transfer.attempt and event.taken > ask.taken
        if goes_on:
            self._taken(ask, event.taken)
        if ask.taken < settings.P:
            self._drive(ask, again=not goes_on)

    def _begin(self, event: msg.AskInner) -> None:
        state = self._desk.state
        if event.taken == self._desk.settings.P:
            return  # its last word, once more
        if state.phase != TRAINING:
            self._none(event.learner, Reason("ending", "the run is not in training"))
            return
        if not any(state.merged):
            self._none(event.learner, Reason("first", "nothing has been merged yet"))
            return
        state.attempts = max(state.attempts, event.attempt)
        until_s = state.now_s + event.left_s
        patient_s = min(until_s, state.now_s + self._desk.settings.silence_s)
        ask = Ask(event.learner, event.incarnation, event.kind, until_s, patient_s)
        state.asks[event.incarnation] = ask
        self._next_donor(ask)

    def arrived(self, event: ev.InnerArrived) -> None:
        """A fragment's inner state has come from a donor."""
        ask = self._desk.state.asks.get(event.transfer.heir)
        if ask is None or ask.transfer != event.transfer or ask.arrived != event.index:
            text = f"inner state {event.index} of transfer {event.transfer} is not awaited"
            self._desk.refuse("donor", "stale", text)
            return
        ask.arrived += 1
        ask.here[event.index] = (event.size_bytes, event.digest)
        self._more_time(ask)
        self._tell_here(ask, event.index)
        self._drive(ask, again=False)

    def concerned(self, event: msg.InnerOver) -> Ask | None:
        """Whose asking the words of a donor or an heir are about; refused where nobody's."""
        transfer, state = event.transfer, self._desk.state
        ask = state.asks.get(event.incarnation)
        if ask is not None and (event.code == GIVEN_UP or ask.transfer == transfer):
            return ask
        ask = state.asks.get(transfer.heir)
        if ask is not None and ask.transfer == transfer and event.incarnation == transfer.donor:
            return ask
        self._desk.refuse(event.learner, "stale", f"transfer {transfer} is over")
        return None

    def over(self, ask: Ask, event: msg.InnerOver) -> None:
        """A donor cannot, or an heir will not go on."""
        if event.code == GIVEN_UP and event.incarnation == ask.incarnation:
            self._end(ask)
            return
        self._desk.note(event.code, f"{ask.learner} takes no inner state from {ask.donor}")
        self._give_up_donor(ask, f"{ask.donor}: {event.why}")

    def awaits(self, transfer: TransferId, index: int) -> bool:
        """Whether this fragment of this transfer is what is to come next."""
        ask = self._desk.state.asks.get(transfer.heir)
        return ask is not None and ask.transfer == transfer and ask.wanted == index == ask.arrived

    # ------------------------------------------------------------ after every event

    def next_deadline_s(self) -> float:
        """When to look again."""
        due_s = NEVER
        for ask in self._desk.state.asks.values():
            due_s = min(due_s, ask.until_s, ask.due_s if ask.donor else ask.patient_s)
        return due_s

    def look(self) -> None:
        """Whoever lost the donor, or its own place, or its time."""
        state = self._desk.state
        for ask in list(state.asks.values()):
            heir = state.roster.current(ask.learner, ask.incarnation)
            if heir is None or ask.until_s <= state.now_s or ask.taken == self._desk.settings.P:
                self._end(ask)
            elif ask.donor:
                self._look_at_donor(ask)
            else:
                self._find(ask)

    def _look_at_donor(self, ask: Ask) -> None:
        state, transfer = self._desk.state, ask.transfer
        donor = state.roster.current(ask.donor, transfer.donor)
        if ask.arrived == self._desk.settings.P:
            ask.due_s = NEVER  # the heir has only to fetch it
        elif donor is None or donor.state == AWAY:
            self._give_up_donor(ask, f"{ask.donor} was lost")
        elif ask.due_s <= state.now_s:
            self._give_up_donor(ask, f"{ask.donor} sent nothing for {self._silence_s(donor):g} s")

    # ------------------------------------------------------------ one after another

    def _drive(self, ask: Ask, again: bool) -> None:
        """Ask the donor for the next fragment; with `again` repeat what may have been lost."""
        if not ask.donor:
            return
        if again:
            for index in ask.here:
                self._tell_here(ask, index)
        room = ask.arrived - ask.taken < WINDOW
        if ask.arrived == self._desk.settings.P or not room:
            return
        if ask.wanted == ask.arrived and not again:
            return
        if ask.wanted != ask.arrived:
            self._more_time(ask)
        ask.wanted = ask.arrived
        lend = msg.LendInner(self._desk.state.epoch, ask.transfer, ask.kind, ask.wanted)
        text = f"fragment {ask.wanted} for {ask.learner}"
        self._desk.send((ask.donor,), lend, Reason("lend", text))

    def _taken(self, ask: Ask, taken: int) -> None:
        ask.taken = min(taken, ask.arrived)
        ask.here = {index: each for index, each in ask.here.items() if index >= ask.taken}
        self._forget(ask, ask.taken, "taken")

    def _tell_here(self, ask: Ask, index: int) -> None:
        size_bytes, digest = ask.here[index]
        epoch = self._desk.state.epoch
        here = msg.InnerHere(epoch, ask.transfer, ask.donor, index, size_bytes, digest)
        text = f"inner state {index} from {ask.donor} is here"
        self._desk.send((ask.learner,), here, Reason("inner_here", text))

    def _forget(self, ask: Ask, upto: int, code: str) -> None:
        self._desk.out.append(fx.ForgetInner(ask.transfer, upto, Reason(code)))

    def _end(self, ask: Ask) -> None:
        if ask.donor:
            self._forget(ask, self._desk.settings.P, "over")
        del self._desk.state.asks[ask.incarnation]

    # ------------------------------------------------------------ finding a donor

    def _give_up_donor(self, ask: Ask, why: str) -> None:
        self._forget(ask, self._desk.settings.P, "over")
        ask.tried.append(ask.transfer.donor)
        ask.why = why
        ask.donor, ask.transfer = "", NO_TRANSFER
        self._next_donor(ask)

    def _next_donor(self, ask: Ask) -> None:
        ask.arrived = ask.taken = 0
        ask.wanted, ask.due_s, ask.here = -1, NEVER, {}
        self._find(ask)

    def _find(self, ask: Ask) -> None:
        """The best donor that is free; or the end, when waiting could not bring one either."""
        state = self._desk.state
        found = self._candidates(ask)
        if found:
            ask.donor = found[0]
            state.attempts += 1
            donor = state.roster.members[ask.donor]
            ask.transfer = TransferId(ask.incarnation, donor.incarnation, state.attempts)
            self._more_time(ask)
            self._desk.note("lend", f"{ask.donor} gives its inner state to {ask.learner}")
            self._drive(ask, again=False)
        elif state.now_s >= ask.patient_s or not self._has_hope(ask):
            text = ask.why or "no peer that trains is there to give it in time"
            del state.asks[ask.incarnation]
            self._none(ask.learner, Reason("nobody", text))

    def _candidates(self, ask: Ask) -> list[str]:
        lending = [each.transfer.donor for each in self._desk.state.asks.values() if each.donor]
        found = [
            (-member.step, name)
            for name, member in self._peers(ask)
            if member.state == LIVE and member.step >= WARM_STEPS
            if member.incarnation not in lending and self._in_time(member, ask)
        ]
        return [name for _, name in sorted(found)]

    def _peers(self, ask: Ask) -> list[tuple[str, Member]]:
        """Everybody else that has not been tried and is not in need itself."""
        state = self._desk.state
        return [
            (name, member)
            for name, member in state.roster.members.items()
            if member.incarnation not in state.asks and member.incarnation not in ask.tried
        ]

    def _has_hope(self, ask: Ask) -> bool:
        """A peer may come back, or be free again, in time."""
        lending = [each.transfer.donor for each in self._desk.state.asks.values() if each.donor]
        return any(
            member.state in (AWAY, BUSY) or member.incarnation in lending
            for _, member in self._peers(ask)
        )

    def _in_time(self, member: Member, ask: Ask) -> bool:
        """A fragment at each boundary takes P steps of the donor."""
        needed_s = self._desk.settings.P * member.pace_s
        return self._desk.state.now_s + needed_s <= ask.until_s

    def _silence_s(self, donor: Member) -> float:
        settings = self._desk.settings
        return max(settings.silence_s, settings.busy_after_steps * donor.pace_s)

    def _more_time(self, ask: Ask) -> None:
        donor = self._desk.state.roster.members[ask.donor]
        ask.due_s = self._desk.state.now_s + self._silence_s(donor)

    def _none(self, name: str, reason: Reason) -> None:
        none = msg.InnerNone(self._desk.state.epoch, reason.code, reason.sentence)
        self._desk.send((name,), none, reason)
