"""Who takes part: hello, newer processes, away, back, gone, left; and telling the shards.

A learner's newest process wins. The one it replaced is told, and stays out. An away learner keeps
its session until `lease_s` is over; then it is gone, and what it had not merged is somebody
else's work. Shards are told of every life, again and again until they show that they know.
"""

from __future__ import annotations

import heapq

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator_desk import Desk
from atoll.core.coordinator_state import (
    ENDED,
    FINISHING,
    INITIAL,
    LEFT,
    LOST,
    REPLACED,
    Farewell,
    Life,
    Record,
)
from atoll.core.ids import COORDINATOR
from atoll.core.membership import AWAY
from atoll.core.phases import Phases
from atoll.core.reasons import Reason

LONGEST_NAME = 64


class Attendance:
    """The part of the coordinator that knows the learners."""

    def __init__(self, desk: Desk, phases: Phases):
        self._desk = desk
        self._phases = phases

    # ------------------------------------------------------------ joining

    def hello(self, hello: msg.Hello) -> None:
        """A process asks to take part, or to go on."""
        name, state = hello.learner, self._desk.state
        reason = self._why_not(hello)
        if reason.code:
            self._reject(name, hello.process, reason)
            return
        life = state.present(name)
        if life is not None and life.process == hello.process:
            self._welcome(life, resumed=hello.incarnation == life.incarnation)
            return
        if state.asking.get(name) == hello.process:
            return
        state.incarnation += 1
        state.asking[name] = hello.process
        fields = {
            "learner": name,
            "process": hello.process,
            "incarnation": str(state.incarnation),
        }
        self._desk.record("incarnation", fields, Reason("hello", f"{name} joins"), wait=True)

    def _why_not(self, hello: msg.Hello) -> Reason:
        """Why a process cannot take part; an empty code when it can."""
        name, state = hello.learner, self._desk.state
        present = state.present(name)
        if not _is_name(name) or _is_party(name):
            text = (
                f"{name[:LONGEST_NAME]!r} cannot be a learner's name: use letters, digits, - and _"
            )
            return Reason("malformed", text)
        if hello.layout != self._desk.run.layout:
            return Reason(
                "layout",
                f"the fragments of {name} have fingerprint {hello.layout}, those of this run "
                f"{self._desk.run.layout}: the model, its frozen parts or P differ",
            )
        if state.phase == ENDED:
            return Reason("ended", f"the run has ended: {state.why}")
        other = present is not None and present.process != hello.process
        older = present is not None and 0 < hello.incarnation < present.incarnation
        if state.was_replaced(name, hello.process) or (older and other):
            return Reason(REPLACED, f"a newer process has joined as {name}")
        if state.phase == FINISHING and (present is None or other):
            return Reason("ended", "the run is in its last rounds, nobody joins any more")
        return Reason("")

    def _reject(self, name: str, process: str, reason: Reason) -> None:
        self._desk.out.append(fx.Refuse(name, reason))
        epoch, sentence = self._desk.state.epoch, reason.sentence
        rejected = msg.Rejected(epoch, name, reason.code, sentence, final=True, process=process)
        self._desk.send((name,), rejected, reason)

    def begin_life(self, record: Record) -> None:
        """A new incarnation is durable: it takes part from now on."""
        desk, state = self._desk, self._desk.state
        name, incarnation = record.fields["learner"], int(record.fields["incarnation"])
        old = state.present(name)
        state.apply(record.kind, record.fields)
        life = state.lives.get(incarnation)
        if life is None:
            text = f"a newer process has joined as {name}"
            self._reject(name, record.fields["process"], Reason(REPLACED, text))
            return
        if old is not None:
            self.depart(old, REPLACED, f"process {life.process} took over")
        admitted = msg.Admitted(name, incarnation)
        desk.send(desk.shards, admitted, Reason("admitted", f"{name} has joined"))
        desk.note("joined", f"{name} takes part, incarnation {incarnation}")
        self._welcome(life, resumed=False)

    def _welcome(self, life: Life, resumed: bool) -> None:
        name, state = life.learner, self._desk.state
        num_shards, ready = self._desk.run.num_shards, state.phase != INITIAL
        code, text = ("resumed", "goes on") if resumed else ("welcome", "takes part")
        welcome = msg.Welcome(
            state.epoch, name, life.incarnation, resumed, num_shards, ready, life.process
        )
        self._desk.send((name,), welcome, Reason(code, f"{name} {text}"))
        self._phases.tell_newcomer(life)
        self._is_live(life)

    # ------------------------------------------------------------ live and away

    def speaker(self, name: str, incarnation: int) -> Life | None:
        """The present life that speaks; whatever it says is a sign of life."""
        state = self._desk.state
        life = state.lives.get(incarnation)
        if life is None or life.learner != name or life.ending:
            self._desk.refuse_stale(name, incarnation)
            return None
        if state.roster.members[name].state == AWAY:
            self._is_live(life)
        else:
            state.roster.heard(name, state.now_s, self._desk.settings)
        return life

    def speaker_or_left(self, name: str, incarnation: int) -> Life | None:
        """As `speaker`; the last words of a learner that left may come after it."""
        life = self._desk.state.lives.get(incarnation)
        if life is not None and life.ending == LEFT and life.learner == name:
            return life
        return self.speaker(name, incarnation)

    def _is_live(self, life: Life) -> None:
        """A life is connected, or was heard of again."""
        desk, roster = self._desk, self._desk.state.roster
        member = roster.members[life.learner]
        assert member.incarnation == life.incarnation, "only the present life can be live"
        if member.state == AWAY and life.was_away:
            desk.note("back", f"{life.learner} is back")
        roster.connect(life.learner, desk.state.now_s, desk.settings)
        desk.arm_progress()
        self._phases.someone_is_live()

    def is_away(self, life: Life, why: str) -> None:
        """The connection is lost or silent; the session stays for `lease_s`."""
        life.was_away = True
        self._begin_lease(life)
        text = f"away ({why}); its session stays for {self._desk.run.lease_s:g} s"
        self._desk.note("away", f"{life.learner} is {text}")

    def _begin_lease(self, life: Life) -> None:
        state = self._desk.state
        life.since_s = state.now_s
        end_s = life.since_s + self._desk.run.lease_s
        heapq.heappush(state.lease_ends, (end_s, life.incarnation))

    def connected(self, event: ev.Connected) -> None:
        """A connection stands, of a learner or of a shard."""
        if event.learner in self._desk.shards:
            self._shard_connected(event.learner)
        else:
            self.speaker(event.learner, event.incarnation)

    def disconnected(self, event: ev.Disconnected) -> None:
        """A connection is gone, of a learner or of a shard."""
        desk, state, name = self._desk, self._desk.state, event.learner
        if name in desk.shards:
            desk.note("shard_away", f"{name} is away ({event.why})")
            return
        member = state.roster.current(name, event.incarnation)
        if member is None:
            desk.refuse_stale(name, event.incarnation)
            return
        was = member.state
        state.roster.disconnect(name)
        if was != AWAY:
            self.is_away(state.lives[event.incarnation], event.why)

    # ------------------------------------------------------------ the end of a life

    def leave(self, event: msg.Leave) -> None:
        """A learner goes on purpose."""
        life = self.speaker_or_left(event.learner, event.incarnation)
        if life is not None and not life.ending:
            self.depart(life, LEFT, event.why)

    def depart(self, life: Life, code: str, why: str) -> None:
        """A life is over, by its own will or not."""
        desk, state = self._desk, self._desk.state
        name, incarnation = life.learner, life.incarnation
        assert life.ending in ("", REPLACED), "a life ends once"
        reason = Reason(code, f"{name}, incarnation {incarnation}, is {code}: {why}")
        if code == REPLACED:
            newer = state.roster.members[name].incarnation
            desk.send((name,), msg.Replaced(state.epoch, newer), reason)
        if code != LEFT:
            desk.out.append(fx.Close(name, incarnation, reason))
        fields = {
            "learner": name,
            "incarnation": str(incarnation),
            "code": code,
            "tokens": str(life.tokens),
        }
        desk.record("departed", fields, reason, wait=False)
        farewell = state.farewells[incarnation]
        if code == REPLACED:  # the newer life is durable, and says it
            self._send_farewell(desk.shards, incarnation, farewell)
        else:
            farewell.record = state.record_number
        desk.out.append(fx.Note(reason))
        if code == LEFT:
            self._begin_lease(life)
            self.release_if_settled(life)
        if incarnation == state.initialiser_life:
            self._phases.name_initialiser()

    def departure_is_durable(self, number: int) -> None:
        """A life that is over is over for good: shards may know."""
        for incarnation, farewell in self._desk.state.farewells.items():
            if farewell.record == number:
                farewell.record = 0
                self._send_farewell(self._desk.shards, incarnation, farewell)

    def release_if_settled(self, life: Life) -> None:
        """A learner that left keeps its leases until all it handed in has its fate."""
        if life.ending == LEFT and life.floor >= life.tokens:
            self._desk.release(life)

    def let_go(self, fragment: int, kept: list[int]) -> None:
        """The shard of a fragment keeps these lives alone.

        Of one that left and is not among them nothing more will be merged: its data need not wait
        for the end of its lease.
        """
        lives, farewells = self._desk.state.lives, self._desk.state.farewells
        for life in [life for life in lives.values() if life.ending == LEFT]:
            farewell = farewells.get(life.incarnation)
            told = farewell is not None and not farewell.record
            if told and life.incarnation not in kept and fragment not in life.let_go:
                life.let_go.append(fragment)
                if len(life.let_go) == len(life.through):
                    self._desk.release(life)

    def tell_stale(self, event: msg.Beat) -> None:
        """Who goes on under a life that is over has missed it: say so again."""
        state, name = self._desk.state, event.learner
        reason = Reason("stale_incarnation", "this session is over: say hello again")
        present = state.present(name)
        message: object
        if state.phase == ENDED:
            message = msg.Ended(state.epoch, state.why)
        elif present is not None and present.incarnation > event.incarnation:
            message = msg.Replaced(state.epoch, present.incarnation)
        elif present is None and name in state.former:
            code, text, process = reason.code, reason.sentence, state.former[name]
            message = msg.Rejected(state.epoch, name, code, text, final=False, process=process)
        else:
            return
        self._desk.send((name,), message, reason)

    def end_leases(self) -> None:
        """Who was away for a whole lease is gone; who left and is not settled gives data back."""
        state, lease_s = self._desk.state, self._desk.run.lease_s
        while state.lease_ends and state.lease_ends[0][0] <= state.now_s:
            _, incarnation = heapq.heappop(state.lease_ends)
            life = state.lives.get(incarnation)
            if life is None or state.now_s < life.since_s + lease_s:
                continue
            if life.ending:
                self._desk.release(life)
            elif state.roster.members[life.learner].state == AWAY:
                self.depart(life, LOST, f"away for {lease_s:g} s")

    # ------------------------------------------------------------ the shards

    def _shard_connected(self, party: str) -> None:
        """A shard may have missed anything while it was away: tell it who is there, who is not."""
        state, index = self._desk.state, self._desk.shards.index(party)
        for life in state.lives.values():
            if not life.ending and index not in life.strangers:
                life.strangers.append(index)
        for incarnation, farewell in state.farewells.items():
            if not farewell.record:
                self._send_farewell((party,), incarnation, farewell)
        self.roll_call((party,))
        self._phases.send_finish((party,))

    def roll_call(self, shards: tuple[str, ...]) -> None:
        """Admit everybody again at those of these shards that may not know them."""
        desk = self._desk
        for life in desk.state.lives.values():
            if life.strangers and not life.ending:
                unaware = [desk.shards[index] for index in sorted(life.strangers)]
                to = tuple(party for party in unaware if party in shards)
                admitted = msg.Admitted(life.learner, life.incarnation)
                desk.send(to, admitted, Reason("admitted_again", f"{life.learner} takes part"))

    def farewells_again(self) -> None:
        """Nobody confirms a farewell, so the newest are said a few times."""
        for incarnation, farewell in self._desk.state.farewells.items():
            if farewell.again > 0 and not farewell.record:
                farewell.again -= 1
                self._send_farewell(self._desk.shards, incarnation, farewell)

    def _send_farewell(self, to: tuple[str, ...], incarnation: int, bye: Farewell) -> None:
        departed = msg.Departed(bye.learner, incarnation, bye.code, bye.code == LEFT)
        self._desk.send(to, departed, Reason(bye.code, f"{bye.learner} is {bye.code}"))

    # ------------------------------------------------------------ restarts

    def gather(self) -> None:
        """Everybody is away with a whole lease before them; lives that are over are let go."""
        desk, state = self._desk, self._desk.state
        state.lease_ends.clear()
        for farewell in state.farewells.values():
            farewell.record = 0
        for life in list(state.lives.values()):
            if life.ending == REPLACED:
                desk.release(life)
                continue
            if not life.ending:
                state.roster.disconnect(life.learner)
                life.strangers = list(range(len(desk.shards)))
            life.was_away = True
            self._begin_lease(life)
        for incarnation in list(state.leases.by_life):
            if incarnation not in state.lives:
                state.leases.give_back(incarnation)


def _is_name(name: str) -> bool:
    plain = name.replace("-", "").replace("_", "")
    return 0 < len(name) <= LONGEST_NAME and plain.isascii() and (plain.isalnum() or not plain)


def _is_party(name: str) -> bool:
    return name == COORDINATOR or name.startswith("shard-")
