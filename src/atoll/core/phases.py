"""From version 0 to the end of a run: initialising, training, finishing, ended.

A phase is told to others only when its record is durable, so no restart goes back to an earlier
one. Nobody trains before version 0 of every fragment is durable. A learner that was asked for
version 0 and is over, or makes no headway for `initialise_s`, loses the task to the next live one.
"""

from __future__ import annotations

from typing import Any

from atoll.core import effects as fx
from atoll.core import messages as msg
from atoll.core.coordinator_desk import Desk
from atoll.core.coordinator_state import ENDED, FINISHING, INITIAL, TRAINING, Life, Record
from atoll.core.ids import shard_of
from atoll.core.membership import AWAY, BUSY, LIVE
from atoll.core.reasons import Reason

NEVER = float("inf")
INITIALISE = "initialise"


class Phases:
    """The part of the coordinator that says how far the run is."""

    def __init__(self, desk: Desk):
        self._desk = desk

    # ------------------------------------------------------------ version 0

    def someone_is_live(self) -> None:
        """A learner may be asked for version 0 now."""
        state = self._desk.state
        if state.phase == INITIAL and INITIALISE not in state.deadlines:
            self.name_initialiser()

    def name_initialiser(self) -> None:
        """Ask the next live learner for version 0, round robin by name."""
        desk, state = self._desk, self._desk.state
        state.deadlines.pop(INITIALISE, NEVER)
        state.initialiser_life, state.heeded, state.offered = 0, False, False
        if state.phase != INITIAL or state.proposed or desk.run.initial != "learner":
            return
        live = state.roster.names(LIVE)
        if not live:
            return
        later = [name for name in live if name > state.initialiser]
        state.initialiser = later[0] if later else live[0]
        state.initialiser_life = state.roster.members[state.initialiser].incarnation
        state.deadlines[INITIALISE] = state.now_s + desk.run.initialise_s
        desk.note("initialiser", f"{state.initialiser} is asked for version 0")
        self._send_initialise()

    def initialiser_is_late(self) -> None:
        """The deadline of version 0 is over."""
        name = self._desk.state.initialiser
        self._desk.note("initialiser_late", f"{name} has not provided version 0 in time")
        self.name_initialiser()

    def offered(self) -> None:
        """The initialiser has sent everything; now it is the shards' turn."""
        if not self._desk.state.offered:
            self._desk.state.offered = self._desk.state.heeded = True
            self._more_time_to_initialise()

    def fragment_ready(self, event: msg.FragmentReady) -> None:
        """Version 0 of a fragment is durable."""
        if not 0 <= event.fragment < self._desk.settings.P:
            self._desk.refuse("shard", "malformed", f"there is no fragment {event.fragment}")
        else:
            self.is_ready(event.fragment)

    def is_ready(self, fragment: int) -> None:
        """Somebody's word shows that version 0 of a fragment is durable."""
        state = self._desk.state
        if state.phase == INITIAL and not state.ready[fragment]:
            state.ready[fragment] = state.heeded = True
            self._more_time_to_initialise()
            self.advance()

    def _more_time_to_initialise(self) -> None:
        state = self._desk.state
        if INITIALISE in state.deadlines:
            state.deadlines[INITIALISE] = state.now_s + self._desk.run.initialise_s

    def _send_initialise(self) -> None:
        state = self._desk.state
        left_s = max(0.0, state.deadlines.get(INITIALISE, state.now_s) - state.now_s)
        reason = Reason(INITIALISE, f"version 0 is to come from {state.initialiser}")
        self._desk.send((state.initialiser,), msg.Initialise(state.epoch, left_s), reason)

    # ------------------------------------------------------------ from phase to phase

    def advance(self) -> None:
        """Ask for the next phase to become durable, if it is time for it."""
        state, budget_tokens = self._desk.state, self._desk.run.budget_tokens
        if state.proposed:
            return
        if state.phase == INITIAL and state.stop_why:
            self._propose(ENDED, state.stop_why)
        elif state.phase == INITIAL and all(state.ready):
            self._propose(TRAINING, f"version 0 of all {len(state.ready)} fragments is durable")
        elif state.phase == TRAINING and state.stop_why:
            self._propose(FINISHING, state.stop_why)
        elif state.phase == TRAINING and state.trained >= budget_tokens:
            self._propose(FINISHING, f"the budget of {budget_tokens} tokens is reached")
        elif state.phase == FINISHING and len(state.finals) == len(state.ready):
            self._propose(ENDED, state.why)

    def _propose(self, phase: str, why: str) -> None:
        self._desk.state.proposed = phase
        self._desk.record("phase", {"phase": phase, "why": why}, Reason(phase, why), wait=True)

    def enter(self, record: Record) -> None:
        """A phase is durable: everybody may know."""
        desk, state = self._desk, self._desk.state
        state.apply(record.kind, record.fields)
        assert state.phase != INITIAL, "no run goes back to its beginning"
        reason = Reason(state.phase, state.why)
        everybody = tuple(sorted(state.roster.members))
        desk.out.append(fx.Note(reason))
        state.deadlines.pop(INITIALISE, NEVER)
        if state.phase == TRAINING:
            desk.send(everybody, msg.Begin(state.epoch), reason)
            self.announce_progress()
        elif state.phase == FINISHING:
            desk.send(everybody, msg.Finishing(state.epoch), reason)
            self.send_finish(desk.shards)
        else:
            state.deadlines.clear()
            desk.send(everybody, msg.Ended(state.epoch, state.why), reason)
        desk.arm_progress()
        self.advance()

    def stop(self, why: str) -> None:
        """End the run early, with last rounds if it has begun."""
        state = self._desk.state
        if state.phase in (INITIAL, TRAINING) and not state.stop_why:
            state.stop_why = why or "a stop was asked for"
            self.advance()

    def fragment_final(self, event: msg.FragmentFinal) -> None:
        """A fragment has had its last round (version -1: it never had any)."""
        desk, state = self._desk, self._desk.state
        if not 0 <= event.fragment < desk.settings.P or event.version < -1:
            desk.refuse("shard", "malformed", f"there is no fragment {event.fragment}")
        elif state.phase == FINISHING:
            state.finals[event.fragment] = event.version
            self.advance()
        elif state.phase != ENDED:
            desk.refuse("shard", "not_finishing", "no last rounds have been asked for")

    def send_finish(self, shards: tuple[str, ...]) -> None:
        """Ask those of these shards for last rounds that have not told all of them."""
        desk, state = self._desk, self._desk.state
        if state.phase != FINISHING:
            return
        missing = [
            desk.shards[shard_of(fragment, len(desk.shards))]
            for fragment in range(desk.settings.P)
            if fragment not in state.finals
        ]
        to = tuple(party for party in shards if party in missing)
        desk.send(to, msg.Finish(desk.run.last_round_s), Reason("finish", state.why))

    # ------------------------------------------------------------ telling learners

    def tell_newcomer(self, life: Life) -> None:
        """How far the run is, to somebody who was just welcomed."""
        state = self._desk.state
        if state.phase != INITIAL:
            self.send_progress(life)
        if state.phase in (FINISHING, ENDED):
            self.repair(life, ())

    def repair(self, life: Life, held: tuple[int, ...]) -> None:
        """Say again what a beat shows to be unknown, or may be."""
        desk, state, to = self._desk, self._desk.state, (life.learner,)
        if state.phase == INITIAL:
            for fragment, version in enumerate(held):
                if version >= 0:
                    self.is_ready(fragment)
            if life.incarnation == state.initialiser_life and not state.heeded:
                self._send_initialise()
        elif state.phase == TRAINING:
            if -1 in held:
                desk.send(to, msg.Begin(state.epoch), Reason("begin_again"))
        elif state.phase == FINISHING:
            desk.send(to, msg.Finishing(state.epoch), Reason(FINISHING, state.why))
        else:
            desk.send(to, msg.Ended(state.epoch, state.why), Reason(ENDED, state.why))

    def announce_progress(self) -> None:
        """Tell everybody who can hear it: schedules and warm-ups stand still until they know."""
        for member in self._desk.state.roster.members.values():
            if member.state != AWAY:
                self.send_progress(self._desk.state.lives[member.incarnation])

    def send_progress(self, life: Life) -> None:
        """The trained tokens of the run, and the learner's own part of them."""
        desk, state = self._desk, self._desk.state
        budget_tokens = desk.run.budget_tokens
        progress = msg.Progress(state.epoch, state.trained, life.tokens, budget_tokens)
        desk.send((life.learner,), progress, Reason("progress"))


# ---------------------------------------------------------------- what people see


def status(desk: Desk) -> dict[str, Any]:
    """What a person or a status page wants to know, as plain values."""
    state, roster, book = desk.state, desk.state.roster, desk.state.leases
    return {
        "run": desk.run.run,
        "epoch": state.epoch,
        "phase": state.phase,
        "waiting": waiting(desk),
        "registered": len(roster.members),
        "live": roster.count(LIVE),
        "busy": roster.count(BUSY),
        "away": roster.count(AWAY),
        "trained": state.trained,
        "merged": merged_tokens(desk),
        "budget": desk.run.budget_tokens,
        "leases_held": len(book.held),
        "repeated_items": book.repeats,
        "repeated_streams": book.stream_repeats,
        "data_pass": book.turn,
    }


def merged_tokens(desk: Desk) -> int:
    """Merged tokens of the run: the mean over fragments, weighted by their sizes."""
    sizes = desk.run.fragment_sizes or (1,) * desk.settings.P
    weighed, elements = 0, 0
    for size, tokens in zip(sizes, desk.state.merged, strict=True):
        weighed += size * tokens
        elements += size
    return weighed // elements


def waiting(desk: Desk) -> str:
    """Why the run does not go on, in a sentence; empty when it does."""
    state, P = desk.state, desk.settings.P
    if state.phase == ENDED:
        return f"the run has ended: {state.why}"
    if state.phase == FINISHING:
        return f"{state.why}; {len(state.finals)} of {P} fragments had their last round"
    if state.phase == INITIAL:
        ready = f"{state.ready.count(True)} of {P} fragments of version 0 are durable"
        if desk.run.initial == "file":
            return f"reading version 0 from its file: {ready}"
        if not state.initialiser_life:
            return f"no learner is live that could provide version 0: {ready}"
        return f"{state.initialiser} provides version 0: {ready}"
    live, needed = state.roster.count(LIVE), desk.settings.quorum
    if live < needed:
        return f"{live} of the {needed} learners that a merge needs are live"
    return ""
