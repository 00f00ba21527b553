"""What must hold after every event, whatever happened before.

Each check takes the state of a core and returns sentences about what is wrong with it; none is
right. On in tests and in simulation; in production a setting switches them on.
"""

from __future__ import annotations

import math

from atoll.core.coordinator_state import CoordinatorState
from atoll.core.donors import WINDOW
from atoll.core.learner_state import JOINING, OVER, LearnerState
from atoll.core.membership import AWAY, LIVE
from atoll.core.shard_state import Fragment, ShardState


class InvariantError(AssertionError):
    """A core reached a state that must not exist. The message names party and rule."""


def require(party: str, wrong: list[str]) -> None:
    """Raise when a check found something."""
    if wrong:
        raise InvariantError(f"{party}: " + "; ".join(wrong))


def check_learner(state: LearnerState) -> list[str]:
    """The ledger has no gap and no overlap, and no limit of a boundary is passed."""
    wrong: list[str] = []
    cuts = 0
    for holding in state.holdings:
        off = holding.ledger.balance(state.tokens) if state.phase != OVER else 0
        if off:
            wrong.append(f"the ledger of fragment {holding.number} is off by {off} tokens")
        if holding.ledger.origin > state.tokens:
            wrong.append(f"fragment {holding.number} has work from the future")
        if holding.base > holding.latest:
            wrong.append(f"fragment {holding.number} holds a version that was never announced")
        cuts += int(holding.cut is not None)
    if cuts > 2:
        wrong.append(f"{cuts} cuts are ordered for one boundary")
    if state.phase == "training" and len(state.transfers) + cuts > 2 + _wanted_again(state):
        wrong.append(f"{len(state.transfers)} uploads are queued")
    if state.restore.until_s < math.inf and state.phase not in (JOINING, OVER):
        wrong.append(f"inner state is waited for while {state.phase}")
    if not 0.0 <= state.progress <= 1.0:
        wrong.append(f"a progress of {state.progress}")
    return wrong


def check_coordinator(state: CoordinatorState) -> list[str]:
    """Nobody lends inner state twice at once, nor while in want of it; little lies between."""
    wrong: list[str] = []
    donors = [ask.transfer.donor for ask in state.asks.values() if ask.donor]
    for ask in state.asks.values():
        if ask.donor and donors.count(ask.transfer.donor) > 1:
            wrong.append(f"{ask.donor} lends inner state twice at once")
        if ask.transfer.donor in state.asks:
            wrong.append(f"{ask.donor} lends inner state and asks for it")
        if not ask.taken <= ask.arrived <= ask.taken + WINDOW or len(ask.here) > WINDOW:
            wrong.append(f"{ask.learner} has {ask.taken} of {ask.arrived} fragments of inner state")
        if ask.transfer.heir != (ask.incarnation if ask.donor else 0):
            wrong.append(f"{ask.learner} takes part in transfer {ask.transfer}")
    return wrong


def check_shard(state: ShardState) -> list[str]:
    """Counted once, versions rise by one, the counters of rounds are what they count."""
    wrong: list[str] = []
    for index, fragment in enumerate(state.fragments):
        wrong += _check_fragment(fragment, state)
        due = len([1 for t in state.schedule.tracks.values() if t.counts and t.ready[index]])
        if due != state.schedule.num_due[index]:
            wrong.append(f"{due} learners make fragment {fragment.number} due, not the count")
    live = len([1 for m in state.roster.members.values() if m.state == LIVE])
    if live != state.schedule.num_counted:
        wrong.append(f"{live} learners are live, {state.schedule.num_counted} are counted")
    for name, member in state.roster.members.items():
        if name not in state.seats or state.seats[name].incarnation != member.incarnation:
            wrong.append(f"{name} is a member without a seat")
        if member.state != AWAY and not member.connected:
            wrong.append(f"{name} is {member.state} without a connection")
    return wrong


def _check_fragment(fragment: Fragment, state: ShardState) -> list[str]:
    wrong: list[str] = []
    number = fragment.number
    if fragment.round is not None and fragment.merge is not None:
        wrong.append(f"fragment {number} has a round and a merge at once")
    if fragment.merge is not None and fragment.merge.version != fragment.version + 1:
        wrong.append(f"fragment {number} would jump to version {fragment.merge.version}")
    if fragment.version < 0 and not fragment.at_rest:
        wrong.append(f"fragment {number} has a round before version 0")
    for name, cut in fragment.fallback.items():
        if name not in state.seats or cut.id.learner != name:
            wrong.append(f"fragment {number} keeps a cut of a learner that is gone: {name}")
    for name, mark in fragment.marks.items():
        if mark.version > fragment.version or mark.learner != name:
            wrong.append(f"fragment {number} has a mark from the future: {name}")
    round = fragment.round
    if round is not None:
        tokens = 0
        for name in round.arrived:
            tokens += round.expected[name]
        if tokens != round.arrived_tokens or round.num_waiting < 0:
            wrong.append(f"the round of fragment {number} miscounts what arrived")
    return wrong


def _wanted_again(state: LearnerState) -> int:
    """Uploads that the syncer asked for again come on top of the two."""
    cuts = 0
    for holding in state.holdings:
        cuts += len(holding.ledger.outstanding)
    return cuts
