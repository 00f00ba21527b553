"""Scavenging: extra compute that is there for half of a run, and what it is worth.

A run trains its first half of the tokens on its own learners. Then others of the same kind join,
`extra` times as many, and stay to the end. With nothing lost the training time is
0.5 + 0.5 / (1 + extra) of what it was.

Decoupled is simulated with the cores, from the first step to the end of the last rounds. Beside it
stands elastic data-parallel training as a formula: the extra compute is elsewhere, so every step
waits for an all-reduce over the links between sites. A ring over n sites as large as the first
moves 2 (n - 1) / n times the gradients through each link, n = 1 + extra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from atoll.core.coordinator import RunSettings
from atoll.core.coordinator_state import ENDED
from atoll.simulator.chips.constants import CHIPS, PROTOCOL
from atoll.simulator.chips.settings import SimulationError, method_of
from atoll.simulator.network import Island, Link
from atoll.simulator.payload import NoPayload
from atoll.simulator.world import Conditions, World

PUBLISHED: Final = {0.0: 1.0, 0.25: 0.90, 0.5: 0.83, 1.0: 0.75, 3.0: 0.62}
"""Training time of Decoupled DiLoCo by extra compute."""
PUBLISHED_ELASTIC: Final = {0.0: 1.0, 0.25: 1.07, 0.5: 1.09, 1.0: 1.02, 3.0: 0.80}
"""The same of elastic data-parallel training."""
OWN_LEARNERS: Final = 8
NUM_FRAGMENTS: Final = 8
NUM_STEPS: Final = 480
"""Steps of each learner when there are no others: two hours."""
GRADIENT_STEPS: Final = 1.05
"""Time to send all gradients once between two sites, in steps. Fitted to the elastic row."""
MOST_EXTRA: Final = 15.0
SMALLEST_PACE: Final = 0.01
"""A rest of the extra compute below this share of a learner is left away."""
TOKENS_PER_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class Scavenged:
    """Training times, as shares of the time without extra compute."""

    extra: float
    ours: float
    ideal: float
    elastic: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the published times where there are some."""
        document: dict[str, Any] = {"extra": self.extra, "training_time": self.ours}
        document |= {"ideal": self.ideal, "elastic": self.elastic}
        document["error"] = self.ours / self.ideal - 1
        if self.extra in PUBLISHED:
            published = {"decoupled": PUBLISHED[self.extra]}
            document["published"] = published | {"elastic": PUBLISHED_ELASTIC[self.extra]}
        return document


def scavenge(extra: float, seed: int = 0) -> Scavenged:
    """Training time with `extra` times the compute from half of the tokens on."""
    if not 0 <= extra <= MOST_EXTRA:
        raise SimulationError(f"extra = {extra} must be from 0 to {MOST_EXTRA:g}; 0.5 is +50 %")
    alone_s, took_s = training_time_s(0.0, seed), training_time_s(extra, seed)
    return Scavenged(extra, took_s / alone_s, ideal(extra), elastic(extra))


def ideal(extra: float) -> float:
    """Half of the work at the old pace, half at the new."""
    return 0.5 + 0.5 / (1 + extra)


def elastic(extra: float) -> float:
    """Data-parallel over all sites: as ideal, but steps wait for gradients between sites."""
    slower = 1 + GRADIENT_STEPS * 2 * extra / (1 + extra)
    return 0.5 + 0.5 * slower / (1 + extra)


@lru_cache(maxsize=64)
def training_time_s(extra: float, seed: int) -> float:
    """From the first step to the end of the last rounds, driven by the cores."""
    budget = NUM_STEPS * OWN_LEARNERS * TOKENS_PER_STEP
    protocol = method_of("decoupled", OWN_LEARNERS, NUM_FRAGMENTS, CHIPS.step_s).protocol
    link = Link(PROTOCOL.control_s, bulk_s=PROTOCOL.transfer_s / protocol.P)
    own = [_island(f"own-{number:03}", 1.0, link) for number in range(OWN_LEARNERS)]
    others = [
        replace(_island(f"extra-{number:03}", pace, link), joins_at_s=math.inf)
        for number, pace in enumerate(paces_of_extra(extra))
    ]
    run = RunSettings("scavenge", "layout", budget, progress_every_s=2.0)
    conditions = Conditions(seed, PROTOCOL.merge_s, check=False)
    world = World(protocol, run, own + others, conditions, NoPayload(TOKENS_PER_STEP))
    state, limit_s = world.coordinator.core.state, 3 * NUM_STEPS * CHIPS.step_s
    half = world.run_until(lambda: state.trained >= budget / 2, limit_s)
    assert half, "half of the budget was not reached"
    for island in others:
        world.learners[island.name].start()
    ended = world.run_until(lambda: state.phase == ENDED, limit_s)
    assert ended, "the run did not end"
    return world.clock.now_s


def paces_of_extra(extra: float) -> list[float]:
    """Whole learners, and one that is slower by what is left."""
    whole = math.floor(extra * OWN_LEARNERS + SMALLEST_PACE)
    rest = extra * OWN_LEARNERS - whole
    return [1.0] * whole + ([rest] if rest > SMALLEST_PACE else [])


def _island(name: str, pace: float, link: Link) -> Island:
    return Island(name, CHIPS.step_s / pace, CHIPS.step_jitter, link)
