"""The leases in a training loop's hand: what was drawn, given to the loop, and acknowledged.

Drawing runs ahead of training (batches are prefetched), so three places are kept for each lease:
`drawn` >= `given` >= `told`. Only what was given to the loop before a step is acknowledged by that
step; what was drawn and never given is drawn again. Must never acknowledge more than was given,
nor anything of a lease that an earlier life of the learner held.

No clock, no waiting: with nothing in hand a draw comes back short, and the caller decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.events import DataTaken
from atoll.core.messages import Granted


@dataclass(slots=True)
class HeldLease:
    """One index range in hand; places are indices of pass `turn`."""

    number: int
    turn: int
    stop: int
    drawn: int
    given: int
    told: int
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Drawn at once from one lease: `first <= index < stop` of pass `turn`."""

    lease: int
    turn: int
    first: int
    stop: int


@dataclass(slots=True)
class LeaseHand:
    """Index leases of one life of a learner, oldest first."""

    incarnation: int = 0
    held: list[HeldLease] = field(default_factory=list)
    wants: bool = False
    """A lease was begun or finished since this was last looked at: there is room for the next."""

    def begin_life(self, incarnation: int) -> None:
        """What an earlier life held is somebody else's by now."""
        if incarnation != self.incarnation:
            self.incarnation = incarnation
            self.held.clear()

    def take(self, granted: Granted) -> None:
        """A lease was granted to this life."""
        first = granted.first
        assert granted.stream < 0, "a stream is no index range"
        lease = HeldLease(granted.lease, granted.turn, granted.stop, first, first, first)
        self.held.append(lease)

    @property
    def num_items(self) -> int:
        """Items in hand that were not drawn yet."""
        items = 0
        for lease in self.held:
            items += lease.stop - lease.drawn
        return items

    def draw(self, num_items: int) -> tuple[Span, ...]:
        """The next items in hand, so many or fewer."""
        spans = []
        for lease in self.held:
            stop = min(lease.stop, lease.drawn + num_items)
            if stop > lease.drawn:
                spans.append(Span(lease.number, lease.turn, lease.drawn, stop))
                num_items -= stop - lease.drawn
                lease.drawn = stop
        return tuple(spans)

    def give(self, spans: tuple[Span, ...]) -> None:
        """What was drawn is in the loop's hands; spans of an earlier life count for nothing."""
        for lease in self.held:
            for span in spans:
                if span.lease == lease.number:
                    assert lease.given <= span.first <= span.stop <= lease.drawn, "out of order"
                    lease.given = span.stop

    def rewind(self) -> None:
        """What was drawn and not given to the loop never will be: draw it again."""
        for lease in self.held:
            lease.drawn = lease.given

    def acknowledge(self) -> list[DataTaken]:
        """The loop has done a step on all that it was given."""
        taken = []
        for lease in self.held:
            if lease.given > lease.told:
                finished = lease.given == lease.stop
                taken.append(DataTaken(lease.number, str(lease.given), finished))
                self.wants = self.wants or finished or not lease.begun
                lease.told, lease.begun = lease.given, True
        self.held = [lease for lease in self.held if lease.told < lease.stop]
        return taken
