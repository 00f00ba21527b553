"""Inner state on its way from a donor to an heir in virtual time: copies, the relay, what came.

The syncer's process holds what is under way in its memory, so it is gone with the coordinator.
Watches from outside that what an heir takes is one donor's, every fragment of it, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.ids import COORDINATOR, NO_TRANSFER, TransferId
from atoll.simulator.checkers import Violation

if TYPE_CHECKING:
    from atoll.simulator.learner_node import LearnerNode
    from atoll.simulator.world import World

KIND = "optimizer"


@dataclass(frozen=True, slots=True)
class InnerBody:
    """The inner state of a fragment as its donor had it at a step."""

    donor: str
    index: int
    step: int
    body: bytes


@dataclass(slots=True)
class Relay:
    """What lies with the syncer, and what became of those who asked."""

    bodies: dict[tuple[TransferId, int], InnerBody] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)

    def forget(self, order: fx.ForgetInner) -> None:
        """The coordinator needs these no longer."""
        for index in range(order.upto):
            self.bodies.pop((order.transfer, index), None)


class InnerWay:
    """One process of a learner as donor and as heir."""

    def __init__(
        self,
        world: World,
        node: LearnerNode,
        later: Callable[[float, Callable[[], None]], None],
        is_broken: Callable[[str, int], bool],
    ):
        self.world = world
        self.node = node
        self._later = later
        self._is_broken = is_broken
        self.order: fx.CopyInner | None = None
        self.taken: dict[int, tuple[TransferId, InnerBody]] = {}

    def ask(self) -> None:
        """Before joining: a peer's inner state is wanted."""
        if self.world.conditions.restore_s > 0:
            self.node.tell(ev.RestoreAsked(KIND, self.world.conditions.restore_s))

    def carry_out(self, effect: fx.CopyInner | fx.FetchInner | fx.Inherit) -> None:
        """Do what the core wants."""
        match effect:
            case fx.CopyInner():
                self.order = effect
            case fx.FetchInner():
                self._fetch(effect)
            case fx.Inherit():
                self._inherit(effect)

    def boundary(self) -> None:
        """A donor's copy, of one fragment."""
        order, self.order = self.order, None
        if order is None:
            return
        node = self.node
        copied = self.world.payload.lend(node.name, order.index)
        body = InnerBody(node.name, order.index, node.step, copied)
        connection = node.connections.get(COORDINATOR, -1)

        def done() -> None:
            if self._is_broken(COORDINATOR, connection):
                code, why = "broken", "the connection broke"
            elif not self.world.coordinator.core.awaits_inner(order.transfer, order.index):
                code, why = "unwanted", "nobody asks any more"
            else:
                self.world.relay.bodies[order.transfer, order.index] = body
                arrived = ev.InnerArrived(order.transfer, order.index, len(copied) or 1, "d")
                self.world.tell_party(COORDINATOR, arrived)
                node.tell(ev.InnerSent(order.transfer, order.index))
                return
            node.tell(ev.InnerNotSent(order.transfer, order.index, code, why))

        self._later(node.wire.send_up_s(len(copied)), done)

    def _fetch(self, order: fx.FetchInner) -> None:
        node, key = self.node, (order.transfer, order.index)
        connection = node.connections.get(COORDINATOR, -1)

        def done() -> None:
            body = self.world.relay.bodies.get(key)
            if body is None or self._is_broken(COORDINATOR, connection):
                node.tell(ev.InnerFetchFailed(*key, "it is not there", unfit=False))
                return
            self.taken[order.index] = (order.transfer, body)
            node.tell(ev.InnerFetched(*key))

        self._later(node.wire.send_down_s(order.size_bytes), done)

    def _inherit(self, order: fx.Inherit) -> None:
        settled = self.world.relay.settled
        settled[order.reason.code] = settled.get(order.reason.code, 0) + 1
        taken, self.taken = self.taken, {}
        if order.transfer == NO_TRANSFER:
            return
        mine = {i: body for i, (transfer, body) in taken.items() if transfer == order.transfer}
        wrong = [i for i, body in mine.items() if (body.donor, body.index) != (order.donor, i)]
        if sorted(mine) != list(range(self.world.settings.P)) or wrong:
            raise Violation(f"{self.node.name} inherits {sorted(mine)} of {order.donor}, {wrong}")
        self.world.payload.inherit(self.node.name, {i: body.body for i, body in mine.items()})
