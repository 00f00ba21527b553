"""Parties of the syncer in virtual time: drivers of a shard core and of the coordinator core.

What is durable survives `kill`: the shard's log of merges over a snapshot, the coordinator's
records. Everything else, contributions included, is gone with the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import CoordinatorCore, CoordinatorState
from atoll.core.ids import COORDINATOR, Cut, shard_party
from atoll.core.shard import ShardCore
from atoll.core.shard_state import ShardState

if TYPE_CHECKING:
    from atoll.simulator.world import World

SNAPSHOT_EVERY = 20


class PartyNode:
    """What a shard and the coordinator have in common."""

    core: ShardCore | CoordinatorCore

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.alive = True
        self.life = 0
        self.epoch = 1

    def tell(self, event: object) -> None:
        """Hand an event to the core and carry out what it wants."""
        if not self.alive:
            return
        for effect in self.world.handle(self.name, self.core, event):
            self.carry_out(effect)
        self.world.arm(self.name, self.core, lambda: self.tell(ev.Tick()), lambda: self.life)

    def carry_out(self, effect: fx.Effect) -> None:
        """Do what the core wants."""
        if isinstance(effect, fx.Send):
            for to in effect.to:
                self.world.send_down(self.name, to, effect.message)
        elif isinstance(effect, fx.Close):
            self.world.close(self.name, effect.learner, effect.incarnation)

    def start(self) -> None:
        """A new process takes over from what is durable, under a higher epoch."""
        raise NotImplementedError

    def kill(self) -> None:
        """The process is gone; so are its connections."""
        if self.alive:
            self.alive = False
            self.life += 1
            for learner in self.world.learners.values():
                learner.drop_connections("the syncer is gone", told=True, only=self.name)

    def later(self, delay_s: float, event: object) -> None:
        """Hand over an event after a while, if this process still lives then."""
        life = self.life

        def run() -> None:
            if self.life == life:
                self.tell(event)

        self.world.clock.after(delay_s, run)


class ShardNode(PartyNode):
    """One shard: its core, its durable log, and the contributions in its memory."""

    core: ShardCore

    def __init__(self, world: World, index: int):
        super().__init__(world, shard_party(index))
        self.index = index
        self.core = ShardCore(world.settings, index, world.num_shards)
        self.kept: ShardState = self.core.snapshot()
        self.log: list[ev.MergeRecovered] = []
        self.versions: dict[int, int] = {}
        self.contributions: dict[str, bytes] = {}
        self.disk_full = False

    def contribute(self, cut: Cut, body: bytes, defect: str) -> None:
        """The bytes of a cut are here."""
        self.contributions.setdefault(_key(cut), body)
        self.tell(ev.Arrived(cut, defect))

    def carry_out(self, effect: fx.Effect) -> None:
        """Merging and forgetting, beside what every party does."""
        if isinstance(effect, fx.Merge):
            self._merge(effect)
        elif isinstance(effect, fx.Discard):
            self.contributions.pop(f"{effect.cut}/{effect.fragment}", None)
        else:
            super().carry_out(effect)

    def _merge(self, order: fx.Merge) -> None:
        life, half_s = self.life, self.world.merge_s / 2

        def durable() -> None:
            if self.life != life:
                return
            if self.disk_full:
                failed = ev.MergeFailed(order.fragment, order.version, "disk_full", "disk is full")
                self.tell(failed)
                return
            bodies = {_key(p.cut): self.contributions.get(_key(p.cut), b"") for p in order.parts}
            digest = self.world.payload.merge(order, bodies)
            self._log(order, digest)
            self.later(half_s, ev.Merged(order.fragment, order.version, digest))

        self.world.clock.after(half_s, durable)

    def _log(self, order: fx.Merge, digest: str) -> None:
        for part in order.parts:
            self.contributions.pop(_key(part.cut), None)
            self.world.watch.merged(part.cut, order.version)
        self.versions[order.fragment] = order.version
        self.world.watch.durable(order.fragment, order.version)
        self.log.append(
            ev.MergeRecovered(
                order.fragment,
                order.version,
                digest,
                order.round,
                order.marks,
                order.through,
                order.merged_tokens,
            )
        )
        if len(self.log) >= SNAPSHOT_EVERY and self.core.state.fragments:
            self._snapshot()

    def _snapshot(self) -> None:
        """A snapshot may trail the log: recovery passes over what it already holds."""
        state = self.core.snapshot()
        self.kept = state
        held = {f.number: f.version for f in state.fragments}
        self.log = [each for each in self.log if each.version > held[each.fragment]]

    def tell(self, event: object) -> None:
        """Version 0, admissions and the end are durable as soon as they are known."""
        first = isinstance(event, ev.InitialStored) and event.fragment not in self.versions
        if first and self.alive and isinstance(event, ev.InitialStored):
            self.versions[event.fragment] = 0
            self.world.watch.durable(event.fragment, 0)
        super().tell(event)
        if isinstance(event, ev.InitialStored | msg.Admitted | msg.Departed | msg.Finish):
            self._snapshot()

    def start(self) -> None:
        """A new process takes over from what is durable, under a higher epoch."""
        assert not self.alive
        self.alive = True
        self.life += 1
        self.epoch += 1
        self.contributions = {}
        self.core = ShardCore.restore(
            self.world.settings, self.index, self.world.num_shards, self.kept
        )
        for each in self.log:
            self.tell(each)
        self.tell(ev.Restarted(self.epoch))
        self.world.watch.recovered(self.core.state, self.versions)


class CoordinatorNode(PartyNode):
    """The coordinator: its core, and its durable records over a snapshot."""

    core: CoordinatorCore

    def __init__(self, world: World):
        super().__init__(world, COORDINATOR)
        self.core = CoordinatorCore(world.settings, world.run)
        self.kept: CoordinatorState = self.core.snapshot()
        self.log: list[ev.RecordRecovered] = []

    def carry_out(self, effect: fx.Effect) -> None:
        """Records, beside what every party does."""
        if isinstance(effect, fx.Persist):
            self._persist(effect)
        elif isinstance(effect, fx.ForgetInner):
            self.world.relay.forget(effect)
        else:
            super().carry_out(effect)

    def _persist(self, order: fx.Persist) -> None:
        life = self.life

        def durable() -> None:
            if self.life == life:
                self.log.append(ev.RecordRecovered(order.number, order.kind, order.fields))
                if len(self.log) >= SNAPSHOT_EVERY:
                    self.kept, self.log = self.core.snapshot(), []
                self.tell(ev.Persisted(order.number))

        self.world.clock.after(self.world.merge_s / 2, durable)

    def start(self) -> None:
        """A new process takes over from what is durable, under a higher epoch."""
        assert not self.alive
        self.alive = True
        self.life += 1
        self.epoch += 1
        self.world.relay.bodies.clear()
        self.core = CoordinatorCore.restore(self.world.settings, self.world.run, self.kept)
        for each in self.log:
            self.tell(each)
        self.tell(ev.Restarted(self.epoch))


def _key(cut: Cut) -> str:
    return f"{cut.id}/{cut.fragment}"
