"""Swarms: a seed draws a whole run with its faults, and the run must not break.

Two phases. Faults on: nothing wrong may ever happen (invariants after every event, checkers from
outside). Faults off: progress must come back within a bounded time, for every fragment and every
learner. The seed alone is enough to see a failing run again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Literal

from atoll.core.coordinator import RunSettings
from atoll.core.learner_state import OVER, TRAINING
from atoll.core.settings import ProtocolSettings
from atoll.simulator.checkers import Violation
from atoll.simulator.learner_node import LearnerNode
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

TOKENS_PER_STEP = 100
LEASE_COMES_S = 10.0
"""Whoever has just joined has asked for its first lease; the answer takes a round trip."""


@dataclass(slots=True)
class Outcome:
    """How a swarm run went; `failure` is empty when nothing was wrong."""

    seed: int
    merges: int = 0
    events: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    failure: str = ""


def run_seed(seed: int, faults_s: float = 240.0) -> Outcome:
    """One run from one seed: faults on, faults off, and what came of it."""
    outcome = Outcome(seed)
    dice = random.Random(seed)
    world = _draw_world(dice, seed)
    storm = Storm(world, dice, outcome.faults)
    try:
        world.clock.at(5.0, storm.strike)
        world.run_for(faults_s)
        storm.over = True
        _heal(world)
        _expect_progress(world)
        _expect_balance(world)
        _expect_data(world)
    except (AssertionError, KeyError, IndexError, ValueError) as error:
        outcome.failure = f"{type(error).__name__}: {error}"
    outcome.merges, outcome.events = world.watch.num_merges, world.counts.events
    return outcome


def _draw_world(dice: random.Random, seed: int) -> World:
    settings = _growing(_draw_settings(dice), random.Random(f"growing {seed}"))
    num_shards = dice.choice([1, 1, 1, min(2, settings.P), min(3, settings.P)])
    run = RunSettings(
        run=f"swarm-{seed}",
        layout="layout",
        budget_tokens=10**12,
        num_shards=num_shards,
        lease_s=dice.choice([15.0, 40.0, 120.0]),
        dataset_items=dice.choice([0, 0, 500]),
        lease_items=50,
        initialise_s=20.0,
    )
    if not run.dataset_items:
        run = replace(run, lease_items=0)
    names = [f"island-{number}" for number in range(settings.M)]
    islands = [_draw_island(dice, name) for name in names]
    restore_s = (8.0, 30.0, 0.0)[seed % 3]
    conditions = Conditions(seed=seed, merge_s=dice.choice([0.01, 0.3]), restore_s=restore_s)
    return World(settings, run, islands, conditions)


def _draw_settings(dice: random.Random) -> ProtocolSettings:
    M = dice.randint(1, 6)
    H = dice.choice([2, 4, 8, 12, 24])
    K: int | Literal["all"] = (
        "all" if dice.random() < 0.25 else dice.choice([1, dice.randint(1, M)])
    )
    tau: int | Literal["auto"] = "auto" if dice.random() < 0.6 else dice.randint(1, max(1, H - 1))
    return ProtocolSettings(
        M=M,
        P=dice.randint(1, min(H, 8)),
        H=H,
        K=K,
        tau=tau,
        gamma=dice.choice([0.2, 0.8, 1.0]),
        min_token_share=dice.choice([0.0, 0.5, 0.5, 1.0]),
        on_quorum_loss=dice.choice(["wait", "wait", "degrade"]),
        weighting=dice.choice(["quality", "tokens", "uniform"]),
        max_staleness=dice.randint(0, 3),
        scale_stale=dice.choice([True, False]),
        receipt=dice.choice(["keep", "keep", "overwrite", "alpha"]),
        unmerged=dice.choice(["carry", "carry", "drop"]),
        look_ahead=dice.choice([0, 1, 1, 2]),
        silence_s=dice.choice([5.0, 10.0]),
        beat_s=dice.choice([1.0, 2.0]),
        first_round_s=dice.choice([5.0, 30.0]),
    )


def _growing(settings: ProtocolSettings, dice: random.Random) -> ProtocolSettings:
    """H grows in a third of the runs; drawn apart, so that a seed keeps what else it drew."""
    least = max(-(-2 * settings.P // 3), 1 if settings.tau == "auto" else settings.tau + 1)
    if dice.random() > 1 / 3 or least > settings.H:
        return settings
    first_H, rounds = dice.randint(least, settings.H), dice.choice([1, 5, 40])
    return replace(settings, first_H=first_H, growing_rounds=rounds)


def _draw_island(dice: random.Random, name: str) -> Island:
    link = Link(
        delay_s=dice.choice([0.001, 0.05, 0.3]),
        jitter_s=dice.choice([0.0, 0.05]),
        loss=dice.choice([0.0, 0.0, 0.03]),
        duplicate=dice.choice([0.0, 0.03]),
        reorder=dice.choice([0.0, 0.05]),
        bulk_s=dice.choice([0.0, 0.2, 2.0]),
    )
    step_s = dice.choice([0.4, 0.5, 0.5, 0.6, 4.0])
    return Island(name, step_s, dice.choice([0.0, 0.1]), link, joins_at_s=dice.random() * 3)


class Storm:
    """Draws faults, one after another, until it is over."""

    def __init__(self, world: World, dice: random.Random, counts: dict[str, int]):
        self.world = world
        self.dice = dice
        self.counts = counts
        self.over = False
        self.kinds = {
            "kill_learner": self._kill_learner,
            "freeze_learner": lambda: self._learner().freeze(self.dice.choice([2.0, 8.0, 20.0])),
            "stall_learner": lambda: self._learner().stall(self.dice.choice([3.0, 15.0])),
            "cut_link": self._cut_link,
            "leave": self._leave,
            "garbage": self._garbage,
            "kill_syncer": self._kill_syncer,
            "kill_shard": self._kill_shard,
            "kill_coordinator": self._kill_coordinator,
            "disk_full": self._disk_full,
        }

    def strike(self) -> None:
        """One fault now, the next one a while later."""
        if self.over:
            return
        kind = self.dice.choice(list(self.kinds))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.kinds[kind]()
        self.world.clock.after(self.dice.expovariate(1 / 8.0), self.strike)

    def _learner(self) -> LearnerNode:
        return self.dice.choice(list(self.world.learners.values()))

    def _kill_learner(self) -> None:
        node = self._learner()
        node.kill()
        self.world.clock.after(self.dice.choice([1.0, 10.0, 30.0]), lambda: revive(node))

    def _cut_link(self) -> None:
        node = self._learner()
        node.cut_link()
        self.world.clock.after(self.dice.choice([1.0, 10.0, 30.0]), node.mend_link)

    def _leave(self) -> None:
        node = self._learner()
        node.leave(self.dice.choice([0.0, 5.0]))
        self.world.clock.after(20.0, lambda: revive(node))

    def _garbage(self) -> None:
        self._learner().corrupt_next = self.dice.choice(["non_finite", "checksum", "size"])

    def _kill_syncer(self) -> None:
        self.world.kill_syncer()
        self.world.clock.after(self.dice.choice([0.5, 5.0, 20.0]), self.world.start_syncer)

    def _kill_shard(self) -> None:
        self.dice.choice(self.world.shards).kill()
        self.world.clock.after(self.dice.choice([0.5, 5.0]), self.world.start_syncer)

    def _kill_coordinator(self) -> None:
        self.world.coordinator.kill()
        self.world.clock.after(self.dice.choice([0.5, 5.0, 20.0]), self.world.start_syncer)

    def _disk_full(self) -> None:
        shard = self.dice.choice(self.world.shards)
        shard.disk_full = True

        def freed() -> None:
            shard.disk_full = False

        self.world.clock.after(self.dice.choice([2.0, 10.0]), freed)


def revive(node: LearnerNode) -> None:
    """A fresh process, if there is none that takes part."""
    if node.core.state.phase == OVER:
        node.kill()
    if not node.alive:
        node.start()


def _heal(world: World) -> None:
    """Everything is mended: links, processes, disks; nobody is stopped any more."""
    world.start_syncer()
    for shard in world.shards:
        shard.disk_full = False
    for node in world.learners.values():
        node.mend_link()
        node.stalled_until_s = 0.0
        node.corrupt_next = ""
        node.island = replace(
            node.island, link=replace(node.island.link, loss=0.0, duplicate=0.0, reorder=0.0)
        )
        if node.frozen:
            node.kill()
        revive(node)


def _expect_progress(world: World) -> None:
    """Within a bounded time every fragment is merged again, with work of every learner."""
    since_s = world.clock.now_s
    before = dict(world.watch.versions)
    merged_before = len(world.watch.merged_in)
    step_s = max(node.island.step_s for node in world.learners.values())
    settings = world.settings
    limit_s = 200.0 + world.run.lease_s + 12 * settings.H * step_s * (1 + settings.P / 2)

    able = [node.name for node in world.learners.values() if _keeps_up(node, world)]

    def back() -> bool:
        versions = world.watch.versions
        rounds = [versions.get(p, -1) - before.get(p, -1) for p in range(settings.P)]
        if min(rounds) < 2:
            return False
        recent = list(world.watch.merged_in)[merged_before:]
        names = {cut.learner for cut, _ in recent}
        return all(name in names for name in able)

    while not back():
        if world.clock.now_s - since_s > limit_s:
            raise Violation(_stuck(world, before, merged_before, limit_s))
        world.run_for(5.0)
        for node in world.learners.values():
            if node.over_code == "left":
                revive(node)


def _keeps_up(node: LearnerNode, world: World) -> bool:
    """Whether a learner can hand in a cut before its base is too old: its link may be too slow."""
    fastest_s = min(each.island.step_s for each in world.learners.values())
    link, step_s = node.island.link, node.island.step_s
    there_and_back_s = 2 * (link.bulk_s + link.delay_s + link.jitter_s) + 4 * link.delay_s + step_s
    if world.settings.unmerged == "drop" and 4 * step_s > world.settings.H * fastest_s:
        return False
    return there_and_back_s < world.settings.max_staleness * world.settings.H * fastest_s


def _stuck(world: World, before: dict[int, int], merged_before: int, limit_s: float) -> str:
    rounds = {p: v - before.get(p, -1) for p, v in sorted(world.watch.versions.items())}
    names = sorted({cut.learner for cut, _ in list(world.watch.merged_in)[merged_before:]})
    phases = {n.name: n.over_code or n.core.state.phase for n in world.learners.values()}
    return (
        f"{limit_s:.0f} s after the faults: merges {rounds}, work merged of {names}, "
        f"learners {phases}, coordinator {world.coordinator.core.status()}"
    )


def _expect_balance(world: World) -> None:
    """Every token of every present life has exactly one fate."""
    for node in world.learners.values():
        for holding in node.core.state.holdings:
            off = holding.ledger.balance(node.core.state.tokens)
            if off:
                raise Violation(f"{node.name}, fragment {holding.number}: {off} tokens off")


def _expect_data(world: World) -> None:
    """No index of the first pass is lost, and everybody who trains has leases again."""
    if not world.run.dataset_items:
        return
    book = world.coordinator.core.state.leases
    lost = world.watch.lost_items(book)
    if lost:
        raise Violation(f"{len(lost)} items of the first pass are nobody's, the first is {lost[0]}")
    world.run_until(lambda: not _without_lease(world), LEASE_COMES_S)
    bare = _without_lease(world)
    if bare:
        raise Violation(f"{bare} train without a lease, {len(book.held)} are held")


def _without_lease(world: World) -> list[str]:
    nodes = world.learners.values()
    return [n.name for n in nodes if n.core.state.phase == TRAINING and not n.hand.held]
