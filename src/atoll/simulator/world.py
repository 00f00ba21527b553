"""A whole run in virtual time: coordinator, shards and learners over a made-up network.

One seed draws everything. The cores are those of production; this only carries out their effects
and lets things go wrong when asked to. Checkers watch from outside.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.coordinator import CoordinatorCore, RunSettings
from atoll.core.ids import COORDINATOR, Cut, shard_of, shard_party
from atoll.core.invariants import check_coordinator, check_learner, check_shard, require
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.checkers import Violation, Watch
from atoll.simulator.clock import Clock
from atoll.simulator.inner import Relay
from atoll.simulator.learner_node import LearnerNode
from atoll.simulator.network import Island
from atoll.simulator.payload import NoPayload, Payload
from atoll.simulator.syncer_node import CoordinatorNode, PartyNode, ShardNode
from atoll.simulator.wire import BodySizes

Core = ShardCore | CoordinatorCore | LearnerCore
Recorder = Callable[[str, float, object, list[fx.Effect]], None]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a simulated run is made of, beside the cores' settings."""

    seed: int = 0
    merge_s: float = 0.01
    inside_s: float = 0.0005
    sizes: BodySizes = field(default_factory=BodySizes)
    window_s: float = 0.0
    restore_s: float = 0.0
    check: bool = True


@dataclass(slots=True)
class Timer:
    """The one timer of a party."""

    at_s: float = float("inf")
    token: int = 0


@dataclass(slots=True)
class Counts:
    """How much went through the cores."""

    events: int = 0
    effects: int = 0
    messages: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class World:
    """All parties of one run and the time they share."""

    node_type: type[LearnerNode] = LearnerNode

    def __init__(
        self,
        settings: ProtocolSettings,
        run: RunSettings,
        islands: list[Island],
        conditions: Conditions | None = None,
        payload: Payload | None = None,
    ):
        conditions = conditions or Conditions()
        self.settings = settings
        self.run = run
        self.layout = run.layout
        self.num_shards = run.num_shards
        self.merge_s = conditions.merge_s
        self.conditions = conditions
        self.clock = Clock()
        self.dice = random.Random(conditions.seed)
        self.payload: Payload = payload or NoPayload()
        self.watch = Watch()
        self.relay = Relay()
        self.counts = Counts()
        self.recorders: list[Recorder] = []
        self.timers: dict[str, Timer] = {}
        self._connections = 0
        self.learners = {island.name: self.node_type(self, island) for island in islands}
        self.coordinator = CoordinatorNode(self)
        self.shards = [ShardNode(self, index) for index in range(self.num_shards)]
        for node in self.learners.values():
            self.clock.at(node.island.joins_at_s, node.start)

    # ------------------------------------------------------------ running

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.clock.run_until(self.clock.now_s + seconds)

    def run_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until something is so; False when the limit came first."""
        end_s = self.clock.now_s + limit_s
        while not done():
            if self.clock.now_s >= end_s or not self.clock.run_one():
                return done()
        return True

    def handle(self, party: str, core: Core, event: object) -> list[fx.Effect]:
        """One event into one core, watched and recorded."""
        effects = core.handle(self.clock.now_s, event)
        self.counts.events += 1
        self.counts.effects += len(effects)
        for effect in effects:
            if isinstance(effect, fx.Refuse):
                refused = self.counts.refused
                refused[effect.reason.code] = refused.get(effect.reason.code, 0) + 1
        if self.conditions.check:
            self._check(party, core)
        for record in self.recorders:
            record(party, self.clock.now_s, event, effects)
        if isinstance(event, ev.Tick) and core.next_deadline_s() <= self.clock.now_s:
            raise Violation(f"{party} would spin: its next deadline has passed")
        return effects

    def _check(self, party: str, core: Core) -> None:
        if isinstance(core, ShardCore):
            require(party, check_shard(core.state))
        elif isinstance(core, LearnerCore):
            require(party, check_learner(core.state))
        else:
            require(party, check_coordinator(core.state))

    def arm(
        self, party: str, core: Core, tick: Callable[[], None], life: Callable[[], int]
    ) -> None:
        """Keep exactly one timer for a party, at its next deadline."""
        at_s = core.next_deadline_s()
        timer = self.timers.setdefault(party, Timer())
        if at_s == timer.at_s and at_s > self.clock.now_s:
            return
        timer.at_s = at_s
        timer.token += 1
        token, born = timer.token, life()
        if at_s == float("inf"):
            return

        def fire() -> None:
            if timer.token == token and life() == born:
                timer.at_s = float("inf")
                tick()

        self.clock.at(at_s, fire, priority=1)

    # ------------------------------------------------------------ messages

    def send_up(self, learner: LearnerNode, party: str, message: object) -> None:
        """From a learner to a party of the syncer."""
        connection = learner.connections.get(party)
        if connection is None:
            return
        self.counts.messages += 1
        for delay_s in learner.island.link.delays(self.dice):

            def deliver() -> None:
                if learner.connections.get(party) == connection:
                    self.tell_party(party, message)

            self.clock.after(delay_s, deliver)

    def send_down(self, sender: str, to: str, message: object) -> None:
        """From a party of the syncer to a learner or to another party."""
        if to not in self.learners:
            self.clock.after(self.conditions.inside_s, lambda: self.tell_party(to, message))
            return
        learner = self.learners[to]
        connection = learner.connections.get(sender)
        if connection is None:
            return
        self.counts.messages += 1
        self.watch.seen(message)
        for delay_s in learner.island.link.delays(self.dice):

            def deliver() -> None:
                if learner.connections.get(sender) == connection:
                    learner.tell(message)

            self.clock.after(delay_s, deliver)

    def close(self, party: str, learner: str, incarnation: int) -> None:
        """A party of the syncer closes a learner's connection."""
        node = self.learners[learner]
        if node.core.state.incarnation == incarnation:
            node.drop_connections("closed by the syncer", told=True, only=party)

    def contribution(self, party: str, cut: Cut, body: bytes, defect: str) -> None:
        """The bytes of a cut reach a shard."""
        node = self.party(party)
        assert isinstance(node, ShardNode)
        node.contribute(cut, body, defect)

    def new_connection(self) -> int:
        """A number no other connection has."""
        self._connections += 1
        return self._connections

    # ------------------------------------------------------------ who is who

    def party(self, name: str) -> PartyNode:
        """The coordinator or a shard by name."""
        return self.coordinator if name == COORDINATOR else self.shards[int(name.split("-")[1])]

    def tell_party(self, name: str, event: object) -> None:
        """An event for a party of the syncer, if it is alive."""
        self.party(name).tell(event)

    def is_up(self, name: str) -> bool:
        """Whether a party of the syncer is alive."""
        return self.party(name).alive

    def owner(self, fragment: int) -> str:
        """The shard that owns a fragment."""
        return shard_party(shard_of(fragment, self.num_shards))

    def published_version(self, fragment: int) -> int:
        """What a shard would serve now: durable and announced."""
        shard = self.shards[shard_of(fragment, self.num_shards)]
        if not shard.alive:
            return -1
        return shard.core.state.fragments[fragment // self.num_shards].version

    def kill_syncer(self) -> None:
        """One process drives coordinator and shards: all are gone at once."""
        for node in (self.coordinator, *self.shards):
            node.kill()

    def start_syncer(self) -> None:
        """The syncer comes back from what is durable."""
        for node in (*self.shards, self.coordinator):
            if not node.alive:
                node.start()
