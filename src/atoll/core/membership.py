"""Who is there: live, busy, away. Kept by the coordinator and, for itself, by every shard.

    live -> busy   connected, but no step for `busy_after_steps` of its own step times
    live -> away   connection lost, or silent for `silence_s` (a half-open connection)
    away -> live   a message over a new connection

Busy and away learners are not called and not waited for, and keep everything. Who is *gone* is
the coordinator's decision alone. Deadlines are looked at lazily: hearing from somebody only
notes the time, and the one entry per learner in the heap is moved when it comes up.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from atoll.core.settings import ProtocolSettings

LIVE = "live"
BUSY = "busy"
AWAY = "away"

NEVER = float("inf")
NOT_WATCHED = 0.0
"""`due_s` of a member without an entry in the heap: a number that JSON can carry."""


@dataclass(slots=True)
class Member:
    """One learner's present life, as this party sees it."""

    incarnation: int
    state: str = AWAY
    connected: bool = False
    step: int = 0
    tokens: int = 0
    pace_s: float = 0.0
    heard_s: float = 0.0
    stepped_s: float = 0.0
    due_s: float = NOT_WATCHED


@dataclass(slots=True)
class Roster:
    """The members by name, and when to look at whom again."""

    members: dict[str, Member] = field(default_factory=dict)
    heap: list[tuple[float, str]] = field(default_factory=list)

    def admit(self, name: str, incarnation: int) -> Member:
        """A new life begins, away until it connects."""
        member = Member(incarnation)
        self.members[name] = member
        return member

    def remove(self, name: str) -> None:
        """A life is over; entries in the heap are passed over when they come up."""
        self.members.pop(name, None)

    def current(self, name: str, incarnation: int) -> Member | None:
        """The member, when this is its present life."""
        member = self.members.get(name)
        return member if member is not None and member.incarnation == incarnation else None

    def connect(self, name: str, now_s: float, settings: ProtocolSettings) -> None:
        """The control connection stands: live, until steps are missing."""
        member = self.members[name]
        member.connected = True
        member.state = LIVE
        member.heard_s = now_s
        member.stepped_s = now_s
        self._watch(name, member, settings)

    def disconnect(self, name: str) -> None:
        """The control connection is gone."""
        member = self.members[name]
        member.connected = False
        member.state = AWAY

    def heard(self, name: str, now_s: float, settings: ProtocolSettings) -> bool:
        """Any message is a sign of life. True when the member comes back from being away."""
        member = self.members[name]
        member.heard_s = now_s
        if member.state == AWAY and member.connected:
            member.state = LIVE
            member.stepped_s = now_s
            self._watch(name, member, settings)
            return True
        return False

    def stepped(self, name: str, now_s: float, step: int, tokens: int, pace_s: float) -> bool:
        """A step was done. True when the member comes back from being busy."""
        member = self.members[name]
        member.step, member.tokens, member.pace_s = step, tokens, pace_s
        member.stepped_s = now_s
        if member.state == BUSY:
            member.state = LIVE
            return True
        return False

    def idle(self, name: str, now_s: float, step_age_s: float, settings: ProtocolSettings) -> bool:
        """A beat told the age of the last step. True when the member becomes busy by it."""
        member = self.members[name]
        member.stepped_s = max(member.stepped_s, now_s - step_age_s)
        if member.state == LIVE and step_age_s > _busy_after_s(member, settings):
            member.state = BUSY
            return True
        return False

    def busy(self, name: str) -> bool:
        """The loop said that it does something else. True when that is news."""
        member = self.members[name]
        if member.state == LIVE:
            member.state = BUSY
            return True
        return False

    def expire(self, now_s: float, settings: ProtocolSettings) -> list[str]:
        """The names whose state changed because of what did not happen."""
        changed: list[str] = []
        while self.heap and self.heap[0][0] <= now_s:
            at_s, name = heapq.heappop(self.heap)
            member = self.members.get(name)
            if member is None or member.due_s != at_s:
                continue
            member.due_s = NOT_WATCHED
            if member.state == AWAY:
                continue
            if now_s >= member.heard_s + settings.silence_s:
                member.state = AWAY
                changed.append(name)
                continue
            if member.state == LIVE and now_s >= member.stepped_s + _busy_after_s(member, settings):
                member.state = BUSY
                changed.append(name)
            self._watch(name, member, settings)
        return changed

    def next_deadline_s(self) -> float:
        """When to look again; an entry that is not needed any more only costs a look."""
        return self.heap[0][0] if self.heap else NEVER

    def count(self, state: str) -> int:
        """How many are in a state."""
        return len([1 for member in self.members.values() if member.state == state])

    def names(self, state: str) -> tuple[str, ...]:
        """Who is in a state, in order of name."""
        return tuple(sorted(n for n, member in self.members.items() if member.state == state))

    def _watch(self, name: str, member: Member, settings: ProtocolSettings) -> None:
        due_s = member.heard_s + settings.silence_s
        if member.state == LIVE:
            due_s = min(due_s, member.stepped_s + _busy_after_s(member, settings))
        if due_s != member.due_s:
            member.due_s = due_s
            heapq.heappush(self.heap, (due_s, name))


def _busy_after_s(member: Member, settings: ProtocolSettings) -> float:
    return settings.busy_after_steps * member.pace_s if member.pace_s > 0 else NEVER
