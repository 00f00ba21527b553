"""Drives the coordinator and all shards of one process: events in, effects out, one timer's time.

    tell(party, event) -> handle(now_s, event) -> each effect to the hands -> messages between the
    parties as further events -> next_deadline_s()

Used by one thread. Must never read a clock (the driver's is passed in) nor decide anything.
Invariant: after a deadline event a core's next deadline is later, or there is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.coordinator import CoordinatorCore
from atoll.core.ids import COORDINATOR, CutId, TransferId, shard_of, shard_party
from atoll.core.reasons import Reason
from atoll.core.shard import ShardCore

Core = CoordinatorCore | ShardCore
Recorder = Callable[[str, float, object, list[fx.Effect]], None]
"""Is told of every event that a core took, with the time and the effects: for a tape."""


class Hands(Protocol):
    """Carries effects out. Outcomes come back as events, never from within these calls."""

    def deliver(self, party: str, to: str, message: object) -> None:
        """A message to a learner."""

    def merge(self, order: fx.Merge) -> None:
        """Compute, make durable, report."""

    def discard(self, cut: CutId, fragment: int, reason: Reason) -> None:
        """Give a contribution's memory back."""

    def forget_inner(self, transfer: TransferId, upto: int) -> None:
        """Give the memory of inner state back that is not needed any more."""

    def persist(self, record: fx.Persist) -> None:
        """Make a record durable, report."""

    def close(self, learner: str, incarnation: int, reason: Reason) -> None:
        """Close a learner's connection."""

    def say(self, party: str, who: str, reason: Reason) -> None:
        """Something a person would want to read; `who` was refused, or is empty."""


class SpinError(AssertionError):
    """A core asks for a timer that has fired already: a mistake of ours."""


class Cores:
    """All parties of the syncer that live in this process."""

    def __init__(
        self,
        coordinator: CoordinatorCore,
        shards: list[ShardCore],
        clock: Callable[[], float],
        recorder: Recorder | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.shards = shards
        self.parties: dict[str, Core] = {COORDINATOR: coordinator}
        self.parties |= {shard_party(index): each for index, each in enumerate(shards)}
        self.hands: Hands | None = None
        self._clock = clock
        self._recorder = recorder
        self._queue: deque[tuple[str, object]] = deque()
        self._draining = False

    # ------------------------------------------------------------ events

    def tell(self, party: str, event: object) -> list[fx.Effect]:
        """One event to one party, and all that follows from it; returns its own effects."""
        assert not self._draining, "hands report later, not from within an effect"
        self._draining = True
        try:
            effects = self._one(party, event)
            while self._queue:
                self._one(*self._queue.popleft())
        finally:
            self._draining = False
        return effects

    def enqueue(self, party: str, event: object) -> None:
        """An event for after those that wait already; for hands, from within an effect."""
        assert self._draining, "outside of an effect events are told"
        self._queue.append((party, event))

    def replay(self, party: str, event: object) -> None:
        """Something read back after a restart: nobody is there to see effects."""
        self._handle(party, event)

    def owner(self, fragment: int) -> str:
        """The shard that owns a fragment."""
        return shard_party(shard_of(fragment, len(self.shards)))

    def shard(self, fragment: int) -> ShardCore:
        """Its core."""
        return self.shards[shard_of(fragment, len(self.shards))]

    def _one(self, party: str, event: object) -> list[fx.Effect]:
        effects = self._handle(party, event)
        for effect in effects:
            self._carry_out(party, effect)
        return effects

    def _handle(self, party: str, event: object) -> list[fx.Effect]:
        core, now_s = self.parties[party], self._clock()
        effects = core.handle(now_s, event)
        if self._recorder is not None:
            self._recorder(party, now_s, event, effects)
        if isinstance(event, ev.Tick) and core.next_deadline_s() <= now_s:
            raise SpinError(f"{party} would spin: its next deadline has passed")
        return effects

    def _carry_out(self, party: str, effect: fx.Effect) -> None:
        assert self.hands is not None, "somebody has to carry effects out"
        match effect:
            case fx.Send():
                for to in effect.to:
                    if to in self.parties:
                        self._queue.append((to, effect.message))
                    else:
                        self.hands.deliver(party, to, effect.message)
            case fx.Merge():
                self.hands.merge(effect)
            case fx.Discard():
                self.hands.discard(effect.cut, effect.fragment, effect.reason)
            case fx.ForgetInner():
                self.hands.forget_inner(effect.transfer, effect.upto)
            case fx.Persist():
                self.hands.persist(effect)
            case fx.Close():
                self.hands.close(effect.learner, effect.incarnation, effect.reason)
            case fx.Note():
                self.hands.say(party, "", effect.reason)
            case fx.Refuse():
                self.hands.say(party, effect.who, effect.reason)
            case _:
                raise AssertionError(
                    f"{party} wants {type(effect).__name__}: not a syncer's effect"
                )

    # ------------------------------------------------------------ time

    def next_deadline_s(self) -> float:
        """The earliest of all; the driver keeps one timer for it."""
        return min(core.next_deadline_s() for core in self.parties.values())

    def tick(self) -> None:
        """The one timer fired."""
        now_s = self._clock()
        for party, core in self.parties.items():
            if core.next_deadline_s() <= now_s:
                self.tell(party, ev.Tick())
