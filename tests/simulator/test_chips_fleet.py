"""Learners on islands of chips, driven by the cores: against plain jobs and formulas."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest

from atoll.core import effects as fx
from atoll.simulator.chips.constants import CHIPS, PROTOCOL
from atoll.simulator.chips.fleet import ChipWorld
from atoll.simulator.chips.goodput import chip_world, measure
from atoll.simulator.chips.settings import SYSTEMS, ChipRun, SimulationError
from atoll.simulator.world import Conditions

STEP_S = CHIPS.step_s
DRIVEN = ("diloco", "streaming", "decoupled")
STEADY = replace(CHIPS, step_jitter=0.0)


def sail(run: ChipRun, check: bool = False) -> ChipWorld:
    return chip_world(run, CHIPS, Conditions(run.seed, PROTOCOL.merge_s, check=check))


def test_one_learner_under_the_cores_comes_out_as_one_elastic_job() -> None:
    """The same chips fail at the same times; the syncer costs the island nothing."""
    alone = measure(ChipRun("elastic", 600_000, 1, days=0.5), STEADY)
    driven = measure(ChipRun("decoupled", 600_000, 1, days=0.5), STEADY)
    assert driven.goodput.mean == pytest.approx(alone.goodput.mean, abs=0.01)
    assert driven.paused == pytest.approx(alone.paused, abs=0.01)
    assert driven.uptime.mean == pytest.approx(alone.uptime.mean, abs=0.01)
    assert driven.failures == pytest.approx(alone.failures, abs=30)


def test_learners_lose_what_an_elastic_job_on_their_share_of_the_chips_loses() -> None:
    alone = measure(ChipRun("elastic", 300_000, 1))
    four = measure(ChipRun("decoupled", 1_200_000, 4, days=0.15))
    assert four.goodput.mean == pytest.approx(alone.goodput.mean, abs=0.02)
    assert four.uptime.mean >= 0.99
    assert 0.85 < four.participation.mean <= 1.0


@pytest.mark.parametrize(
    ("system", "chips", "learners", "published"),
    [
        ("none", 150_000, 1, 0.72),
        ("none", 1_200_000, 1, 0.27),
        ("elastic", 150_000, 1, 0.88),
        ("elastic", 600_000, 1, 0.69),
        ("elastic", 1_200_000, 1, 0.58),
        ("decoupled", 150_000, 8, 0.98),
        ("decoupled", 1_200_000, 8, 0.88),
    ],
)
def test_published_cells(system: str, chips: int, learners: int, published: float) -> None:
    days = 0.08 if system in DRIVEN else 10.0
    found = measure(ChipRun(system, chips, learners, days=days))
    assert found.goodput.mean == pytest.approx(published, abs=0.03)
    if learners == 8:
        assert found.uptime.mean >= 0.999


def test_a_run_is_drawn_by_its_seed() -> None:
    run = ChipRun(chips=2_400_000, learners=3, days=0.03)
    assert measure(run).as_dict() == measure(run).as_dict()
    other = measure(replace(run, seed=1))
    assert other.over_time != measure(run).over_time


@pytest.mark.parametrize("system", DRIVEN)
def test_invariants_hold_while_whole_learners_die(system: str) -> None:
    """Islands of one and two slices whose chips fail all the time."""
    run = ChipRun(system, 300, 3, mtbi_years=0.003, seed=3)
    world = sail(run, check=True)
    world.run_for(600 * STEP_S)
    assert sum(each.weather.num_failures for each in world.chips.values()) > 10
    assert world.shards[0].core.state.tally.merges > 10
    lives = [node.life for node in world.nodes]
    assert (max(lives) > 1) == (system == "decoupled"), "a synchronous system waits for its own"


@pytest.mark.parametrize("system", ["diloco", "streaming"])
def test_synchronous_learners_keep_together(system: str) -> None:
    """Nobody is ever more than the overlap ahead, and each fragment is merged once in H steps."""
    world = sail(ChipRun(system, 2_400_000, 4))
    ahead: list[int] = []

    def look(party: str, _: float, __: object, effects: list[Any]) -> None:
        if party == "shard-0" and any(isinstance(each, fx.Merge) for each in effects):
            steps = [node.core.state.steps for node in world.nodes]
            ahead.append(max(steps) - min(steps))

    world.recorders.append(look)
    world.run_for(400 * STEP_S)
    apart = world.method.steps_between_cuts + world.method.lead_steps
    assert max(ahead) <= (apart if system == "streaming" else 0)
    steps = min(node.core.state.steps for node in world.nodes)
    versions = [each.version for each in world.shards[0].core.state.fragments]
    assert min(versions) >= steps // PROTOCOL.H - 1
    assert max(versions) <= steps // PROTOCOL.H + 1
    for node in world.nodes:
        for holding in node.core.state.holdings:
            assert holding.ledger.dropped_tokens == 0


def test_a_decoupled_learner_waits_for_nobody() -> None:
    """One learner on chips that fail all the time slows no other down."""
    world = sail(ChipRun("decoupled", 1_000_000, 4))
    broken = world.nodes[0].chips.weather
    broken.fail_every_s = STEP_S / 4
    broken.begin(0.0)
    world.run_for(400 * STEP_S)
    steps = [node.core.state.steps for node in world.nodes]
    others = measure(ChipRun("elastic", 250_000, 1)).uptime.mean
    assert steps[0] < 220
    assert min(steps[1:]) > 390 * (others - 0.06)
    assert all(node.waited_s == 0 for node in world.nodes)


def test_memory_is_flat_in_simulated_time() -> None:
    world = sail(ChipRun("decoupled", 30_000, 2, mtbi_years=0.5))
    alive = []
    for spans in (1, 3):
        world.run_for(spans * 500 * STEP_S)
        gc.collect()
        alive.append(len(gc.get_objects()))
    assert world.shards[0].core.state.tally.merges > 600
    assert alive[1] < 1.03 * alive[0] + 200
    assert len(world.clock._heap) < 100


def test_goodput_hardly_depends_on_the_number_of_fragments() -> None:
    few, many = (measure(ChipRun(learners=4, days=0.08, fragments=P)) for P in (4, 24))
    assert many.goodput.mean == pytest.approx(few.goodput.mean, abs=0.02)
    assert many.participation.mean < few.participation.mean


def test_lost_time_adds_up() -> None:
    found = measure(ChipRun("streaming", 1_200_000, 4, days=0.1))
    lost = found.paused + found.absent + found.waited
    assert found.goodput.mean + lost == pytest.approx(1.0, abs=0.02)
    assert found.waited > 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": "sync"}, "choose one of none, elastic, diloco, streaming, decoupled"),
        ({"chips": 0}, "chips = 0 must be a whole number from 1 on"),
        ({"chips": -5}, "chips = -5"),
        ({"learners": 0}, "learners = 0"),
        ({"chips": 3, "learners": 4}, "set learners to 3 or less"),
        ({"mtbi_years": 0.0}, "mtbi_years = 0.0"),
        ({"mtbi_years": float("nan")}, "mtbi_years = nan"),
        ({"days": -1.0}, "days = -1.0"),
        ({"days": float("inf")}, "days = inf"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_cannot_be_simulated_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        ChipRun(**change)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("chips", [1, 7])
def test_a_handful_of_chips_is_simulated_too(system: str, chips: int) -> None:
    found = measure(ChipRun(system, chips, 1, mtbi_years=0.001, days=0.05))
    assert 0 <= found.goodput.mean <= 1
    assert 0 <= found.uptime.mean <= 1
