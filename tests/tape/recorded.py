"""A simulated run on tape: every process of every party has a writer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atoll.core import effects as fx
from atoll.core.coordinator_state import RunSettings
from atoll.core.ids import COORDINATOR
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.network import Island, Link
from atoll.simulator.payload import Payload
from atoll.simulator.world import Conditions, Core, World
from atoll.tape.format import Header
from atoll.tape.record import TapeSettings, TapeWriter


class Recording:
    """Wraps `World.handle`: a core not seen before begins a tape before its first event."""

    def __init__(self, world: World, root: Path, settings: TapeSettings | None = None):
        self.world = world
        self.root = root
        self.settings = settings or TapeSettings()
        self.writers: dict[str, tuple[Core, TapeWriter]] = {}
        self.left: list[TapeWriter] = []
        self._handle = world.handle
        world.handle = self.handle  # type: ignore[method-assign]
        for node in (world.coordinator, *world.shards):
            self.writer(node.name, node.core)

    def handle(self, party: str, core: Core, event: object) -> list[fx.Effect]:
        writer = self.writer(party, core)
        now_s = self.world.clock.now_s
        effects = self._handle(party, core, event)
        assert writer.record(now_s, event, effects) == ""
        return effects

    def writer(self, party: str, core: Core) -> TapeWriter:
        known, writer = self.writers.get(party, (None, None))
        if known is core and writer is not None:
            return writer
        if writer is not None:
            writer.flush()
            self.left.append(writer)
        fresh = TapeWriter(self.root, header_of(self.world, party, core), core, self.settings)
        assert fresh.open() == ""
        self.writers[party] = (core, fresh)
        return fresh

    def lose_buffer(self, party: str) -> None:
        """The process is killed: what was not written yet is gone with it."""
        _, writer = self.writers.pop(party)
        writer._buffer.clear()
        writer._close_file()

    def close(self) -> None:
        for _, writer in self.writers.values():
            assert writer.close() == ""
        for writer in self.left:
            writer.flush()
            writer._close_file()


def header_of(world: World, party: str, core: Core) -> Header:
    common: dict[str, Any] = {"party": party, "settings": world.settings, "layout": world.layout}
    if isinstance(core, ShardCore):
        index = int(party.split("-")[1])
        return Header(role="shard", index=index, num_shards=world.num_shards, **common)
    if isinstance(core, LearnerCore):
        return Header(role="learner", num_shards=world.num_shards, **common)
    assert party == COORDINATOR
    return Header(role="coordinator", num_shards=world.num_shards, run=world.run, **common)


def make_world(
    seed: int,
    num_learners: int = 4,
    num_shards: int = 2,
    payload: Payload | None = None,
    **chosen: Any,
) -> World:
    settings = ProtocolSettings(
        **{"M": num_learners, "P": 6, "H": 12, "K": 1, "receipt": "keep", **chosen}
    )
    run = RunSettings(
        "run", "layout", 10**9, num_shards=num_shards, dataset_items=10_000, lease_items=50
    )
    link = Link(delay_s=0.05, jitter_s=0.02, loss=0.02, duplicate=0.02, reorder=0.05)
    islands = [
        Island(f"l{index}", 1.0 + 0.15 * index, link=link, joins_at_s=0.1 * index)
        for index in range(num_learners)
    ]
    return World(settings, run, islands, Conditions(seed=seed), payload)


def stormy_run(root: Path, seed: int, settings: TapeSettings | None = None, **chosen: Any) -> World:
    """Several learners, a killed one that comes back, a cut link, and a syncer that restarts."""
    world = make_world(seed, **chosen)
    recording = Recording(world, root, settings)
    world.run_for(50)
    world.learners["l1"].kill()
    world.run_for(15)
    world.learners["l2"].cut_link()
    world.run_for(8)
    world.kill_syncer()
    world.run_for(5)
    world.start_syncer()
    world.learners["l2"].mend_link()
    world.run_for(15)
    world.learners["l1"].start()
    world.run_for(60)
    recording.close()
    return world
