"""Random walks over joined cores: hypothesis chooses what comes, what is lost, and who fails.

What must hold after every event stands in `joined.py`. At the end of each walk the faults are over,
and the run has to go on: every fragment merges again, with the work of every learner.
"""

from __future__ import annotations

import os
from typing import Literal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from atoll.core import events as ev
from atoll.core.coordinator import RunSettings
from atoll.core.ids import COORDINATOR, shard_party
from atoll.core.learner_state import OVER, TRAINING
from atoll.core.settings import ProtocolSettings
from core.joined import Joined

NUM_WALKS = int(os.environ.get("ATOLL_WALKS", "40"))
NUM_STEPS = int(os.environ.get("ATOLL_WALK_STEPS", "40"))

number = st.integers(0, 10**6)


@st.composite
def protocols(draw: st.DrawFn) -> ProtocolSettings:
    M = draw(st.integers(1, 4))
    H = draw(st.integers(1, 6))
    K: int | Literal["all"] = draw(st.one_of(st.integers(1, M), st.just("all")))  # type: ignore[arg-type]
    tau: int | Literal["auto"] = draw(st.one_of(st.just("auto"), st.integers(1, max(1, H - 1))))  # type: ignore[arg-type]
    return ProtocolSettings(
        M=M,
        P=draw(st.integers(1, min(4, H))),
        H=H,
        K=K,
        tau=tau,
        min_token_share=draw(st.sampled_from([0.0, 0.5, 1.0])),
        on_quorum_loss=draw(st.sampled_from(["wait", "degrade"])),
        max_staleness=draw(st.integers(0, 2)),
        receipt=draw(st.sampled_from(["keep", "overwrite", "alpha"])),
        unmerged=draw(st.sampled_from(["carry", "drop"])),
        look_ahead=draw(st.integers(0, 1)),
        silence_s=6.0,
        beat_s=draw(st.sampled_from([1.0, 2.0])),
        first_round_s=5.0,
    )


class Walk(RuleBasedStateMachine):
    """Faults on, until `teardown`."""

    @initialize(
        protocol=protocols(),
        shards=st.integers(1, 2),
        budget=st.sampled_from([4000, 10**12]),
        data=st.booleans(),
        warm=st.integers(0, 12),
    )
    def begin(
        self, protocol: ProtocolSettings, shards: int, budget: int, data: bool, warm: int
    ) -> None:
        run = RunSettings(
            "run",
            "layout",
            budget,
            num_shards=min(shards, protocol.P),
            lease_s=15.0,
            dataset_items=60 if data else 0,
            lease_items=10 if data else 0,
            initialise_s=5.0,
            last_round_s=5.0,
        )
        self.world = Joined(protocol, run)
        self.names = [f"island-{index}" for index in range(protocol.M)]
        for name in self.names:
            self.world.join(name)
        for _ in range(warm):
            self.world.honest_step()

    # ------------------------------------------------------------ the network

    @precondition(lambda self: self.world.flights)
    @rule(index=number, count=st.integers(1, 12))
    def deliver(self, index: int, count: int) -> None:
        for _ in range(count):
            if self.world.flights:
                self.world.deliver(index % len(self.world.flights))

    @precondition(lambda self: self.world.flights)
    @rule(index=number)
    def deliver_and_keep(self, index: int) -> None:
        self.world.deliver(index % len(self.world.flights), again=True)

    @precondition(lambda self: self.world.flights)
    @rule(index=number, count=st.integers(1, 6))
    def lose(self, index: int, count: int) -> None:
        for _ in range(count):
            if self.world.flights:
                del self.world.flights[index % len(self.world.flights)]

    @precondition(lambda self: self.world.dials)
    @rule(index=number)
    def dial(self, index: int) -> None:
        self.world.dial(index % len(self.world.dials))

    @precondition(lambda self: self.world.connections)
    @rule(index=number, told=st.booleans(), heard=st.booleans())
    def cut_a_connection(self, index: int, told: bool, heard: bool) -> None:
        pairs = list(self.world.connections)
        key, party = pairs[index % len(pairs)]
        self.world.disconnect(key, party, told=True, heard=heard)

    @precondition(lambda self: self.world.transfers)
    @rule(
        index=number,
        outcome=st.sampled_from(["done", "done", "done", "lost", "unheard", "bad", "final"]),
    )
    def move(self, index: int, outcome: str) -> None:
        self.world.move(index % len(self.world.transfers), outcome)

    # ------------------------------------------------------------ the lagoon

    @precondition(lambda self: any(p.merges for p in self.world.parties.values() if p.alive))
    @rule(index=number, outcome=st.sampled_from(["done", "done", "failed", "spoiled", "unheard"]))
    def merge(self, index: int, outcome: str) -> None:
        merging = [p for p in self.world.parties.values() if p.alive and p.merges]
        party = merging[index % len(merging)]
        self.world.merge(party, index % len(party.merges), outcome)

    @rule()
    def persist(self) -> None:
        self.world.persist()

    @precondition(lambda self: self.world.initials)
    @rule(index=number, fragments=st.integers(0, 4))
    def initialise(self, index: int, fragments: int) -> None:
        self.world.initialise(index % len(self.world.initials), fragments)

    @rule(index=number)
    def keep(self, index: int) -> None:
        self.world.keep(shard_party(index % self.world.run.num_shards))

    @rule(index=number)
    def kill_a_party(self, index: int) -> None:
        names = list(self.world.parties)
        self.world.kill(names[index % len(names)])

    @rule()
    def start_all_parties(self) -> None:
        for name in self.world.parties:
            self.world.start(name)

    # ------------------------------------------------------------ the islands

    @rule(index=number, tokens=st.sampled_from([0, 1, 100, 100]), which=st.integers(0, 15))
    def boundary(self, index: int, tokens: int, which: int) -> None:
        keys = [key for key, process in self.world.processes.items() if process.alive]
        if keys:
            key = keys[index % len(keys)]
            self.world.boundary(key, tokens, lambda slot: (which >> slot % 4) & 1 == 1)

    @rule(tokens=st.sampled_from([1, 100]), count=st.integers(1, 4))
    def everybody_steps(self, tokens: int, count: int) -> None:
        for _ in range(count):
            for key in list(self.world.processes):
                self.world.boundary(key, tokens, lambda _: True)

    @rule(index=number)
    def join(self, index: int) -> None:
        name = self.names[index % len(self.names)]
        if len([p for p in self.world.processes.values() if p.name == name]) < 2:
            self.world.join(name)

    @precondition(lambda self: self.world.processes)
    @rule(index=number, heard=st.booleans())
    def crash(self, index: int, heard: bool) -> None:
        keys = list(self.world.processes)
        self.world.crash(keys[index % len(keys)], heard)

    @precondition(lambda self: self.world.processes)
    @rule(index=number, limit_s=st.sampled_from([0.0, 3.0]))
    def leave(self, index: int, limit_s: float) -> None:
        keys = list(self.world.processes)
        self.world.tell(keys[index % len(keys)], ev.LeaveAsked("the loop is over", limit_s))

    @precondition(lambda self: self.world.processes)
    @rule(index=number)
    def stall(self, index: int) -> None:
        keys = list(self.world.processes)
        process = self.world.processes[keys[index % len(keys)]]
        process.busy = not process.busy
        self.world.tell(process.key, ev.BusySince("evaluation") if process.busy else ev.BusyOver())

    # ------------------------------------------------------------ time, and honest times

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 3.0, 8.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(count=st.integers(1, 5))
    def all_is_well(self, count: int) -> None:
        for _ in range(count):
            self.world.honest_step()

    @rule()
    def settle(self) -> None:
        self.world.settle()

    # ------------------------------------------------------------ copies

    @rule(index=number)
    def copy(self, index: int) -> None:
        cores = self.world.cores()
        if cores:
            self.world.copy(cores[index % len(cores)])

    def teardown(self) -> None:
        """Faults off: progress must come back. And copies are still what the originals are."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for key, twin in world.twins.items():
            assert twin.snapshot() == world.core(key).snapshot(), f"the twin of {key}"
        recover(world, self.names)


def recover(world: Joined, names: list[str]) -> None:
    """Everything is mended; every fragment merges again, with work of every learner."""
    for name in world.parties:
        world.start(name)
    for process in list(world.processes.values()):
        if process.busy:
            process.busy = False
            world.tell(process.key, ev.BusyOver())
    before, merged = dict(world.versions), len(world.watch.merged_in)
    for _ in range(60 + 12 * world.protocol.H):
        mend(world, names)
        world.honest_step()
        if world.parties[COORDINATOR].core.state.phase in ("finishing", "ended"):
            return
        rounds = [world.versions.get(p, -1) - before.get(p, -1) for p in range(world.protocol.P)]
        who = {cut.learner for cut, _ in list(world.watch.merged_in)[merged:]}
        if min(rounds) >= 2 and (who == set(names) or not everybody_counts(world)):
            return
    phases = {key: p.core.state.phase for key, p in world.processes.items()}
    raise AssertionError(f"no progress: {rounds}, work of {sorted(who)}, {phases}")


def everybody_counts(world: Joined) -> bool:
    """Whether work that misses its round goes into the next; else the first may win all."""
    return world.protocol.unmerged == "carry" and world.protocol.max_staleness > 0


def mend(world: Joined, names: list[str]) -> None:
    """One process for every name that takes part."""
    for name in names:
        there = [p for p in world.processes.values() if p.name == name]
        for process in there:
            if process.core.state.phase == OVER:
                world.crash(process.key, heard=True)
        if not [p for p in world.processes.values() if p.name == name]:
            world.join(name)


Walk.TestCase.settings = settings(
    max_examples=NUM_WALKS,
    stateful_step_count=NUM_STEPS,
    phases=[Phase.generate, Phase.shrink] if os.environ.get("ATOLL_SHRINK") else [Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWalk = Walk.TestCase


def test_an_honest_world_merges_everybody_in_every_round() -> None:
    protocol = ProtocolSettings(M=3, P=4, H=4, K="all", beat_s=1.0)
    world = Joined(protocol, RunSettings("run", "layout", 10**12, num_shards=2))
    for name in ("a", "b", "c"):
        world.join(name)
    for _ in range(40):
        world.honest_step()
    assert {p.core.state.phase for p in world.processes.values()} == {TRAINING}
    assert min(world.versions.values()) >= 7
    assert len(world.watch.merged_in) == 3 * world.watch.num_merges - 3 * protocol.P
