"""Expected goodput and participation of a plan, from three parts.

* Chips that fail inside an island: `simulator.chips`, one elastic job with this site's chips and
  step, until two thousand have failed.
* A whole site that is taken away: by formula. It is gone until it is back, has joined, and has
  redone half a round.
* Lines and paces: the production cores in virtual time, without failures: what share of the trained
  tokens is merged, and how many learners each round has.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from atoll.core.coordinator import RunSettings
from atoll.core.settings import ProtocolSettings
from atoll.simulator.bandwidth import body_sizes
from atoll.simulator.chips.constants import CHIPS, YEAR_S
from atoll.simulator.chips.goodput import DAY_S, measure
from atoll.simulator.chips.settings import ChipRun
from atoll.simulator.network import Island, Link
from atoll.simulator.payload import NoPayload
from atoll.simulator.planning.ask import Ask, Site
from atoll.simulator.planning.needs import (
    MEGABIT_BYTES,
    Choice,
    line_need,
    pacing_step_s,
    syncer_need,
)
from atoll.simulator.wire import BodySizes
from atoll.simulator.world import Conditions, World

FAILURES = 2000
MOST_DAYS = 200.0
"""An island is simulated until so many chips failed, but not longer."""
MOST_LEARNERS = 16
"""Of more sites so many stand for all: from the fastest to the slowest, evenly."""
WARM_UP_STEPS = 48
COUNTED_STEPS = 120
"""Of the pacing learner; one round at least."""
TOKENS = 1000
JITTER = 0.02


@dataclass(frozen=True, slots=True)
class Outlook:
    """Shares from 0 to 1. `goodput`: tokens merged over those of sites that never fail or wait,
    without what the receipt overwrites by design.
    """

    goodput: float
    trained: float
    """Tokens trained over those of sites that never fail."""
    merged: float
    """Of the trained tokens."""
    participation: float
    chips: float
    """Left of the time after chips that fail inside islands."""
    interruptions: float
    """Left of the time after whole sites that are taken away."""


def outlook(ask: Ask, choice: Choice) -> Outlook:
    """What to expect of a choice."""
    merged, participation = _simulate(ask, choice)
    whole = sum(each.tokens_s for each in ask.sites)
    chips = sum(each.tokens_s * chips_left(each) for each in ask.sites) / whole
    there = sum(each.tokens_s * site_left(ask, choice, each) for each in ask.sites) / whole
    trained = (
        sum(each.tokens_s * chips_left(each) * site_left(ask, choice, each) for each in ask.sites)
        / whole
    )
    return Outlook(trained * merged, trained, merged, participation, chips, there)


def chips_left(site: Site) -> float:
    """Share of an island's chip time that chips failing and returning leave, simulated."""
    return _elastic(site.chips, site.mtbi_years, site.step_s) if site.mtbi_years else 1.0


@functools.cache
def _elastic(chips: int, mtbi_years: float, step_s: float) -> float:
    per_day = chips / (mtbi_years * YEAR_S) * DAY_S
    days = min(MOST_DAYS, max(1.0, FAILURES / per_day))
    run = ChipRun("elastic", chips, 1, mtbi_years, days)
    return measure(run, replace(CHIPS, step_s=step_s)).goodput.mean


def site_left(ask: Ask, choice: Choice, site: Site) -> float:
    """Share of the time that a site which is taken away now and then trains for good."""
    redone_s = choice.H * site.step_s / 2
    gone_s = site.return_s + line_need(ask, choice, site).join_s + redone_s
    return 1 / (1 + site.interruptions_per_hour / 3600 * gone_s)


def world_of(ask: Ask, choice: Choice) -> World:
    """The sites as learners in virtual time, on their lines, with the settings of a choice.

    They keep what they do while a merge is on its way: what `overwrite` drops there by design is no
    loss to failures, lines or paces, and models are no worse for it (docs/quality.md).
    """
    sites = _stand_ins(ask.sites)
    settings = ProtocolSettings(M=len(sites), P=choice.P, H=choice.H, receipt="keep")
    bounds = [each * ask.params // choice.P for each in range(choice.P + 1)]
    numels = tuple(bounds[each + 1] - bounds[each] for each in range(choice.P))
    islands = [
        Island(site.name, site.step_s, JITTER, _link(site), site.step_s * number / len(sites))
        for number, site in enumerate(sites)
    ]
    run = RunSettings("plan", "layout", 10**15, lease_s=1e6)
    conditions = Conditions(
        merge_s=syncer_need(ask, choice, 1).merge_s,
        sizes=body_sizes(numels, choice.up, choice.down),
        check=False,
    )
    return World(settings, run, islands, conditions, NoPayload(TOKENS))


def _simulate(ask: Ask, choice: Choice) -> tuple[float, float]:
    """Tokens merged over tokens trained, and learners merged over learners live.

    Joining is not what is asked here: until everybody trains, nothing has any weight.
    """
    world = world_of(ask, choice)
    step_s = pacing_step_s(ask.sites)
    nodes = list(world.learners.values())
    sizes = nodes[0].sizes
    for node in nodes:
        node.sizes = BodySizes()
    begun = world.run_until(lambda: all(node.step > 0 for node in nodes), 1e9)
    assert begun, "a run without faults begins"
    for node in nodes:
        node.sizes = sizes
    world.run_for(max(WARM_UP_STEPS, choice.H) * step_s)
    before = _standing(world)
    world.run_for(max(COUNTED_STEPS, choice.H) * step_s)
    merged, live, tokens, steps = (b - a for a, b in zip(before, _standing(world), strict=True))
    return min(1.0, tokens / choice.P / (steps * TOKENS)), merged / max(1, live)


def _standing(world: World) -> tuple[int, int, int, int]:
    state = world.shards[0].core.state
    tokens = sum(each.merged_tokens for each in state.fragments)
    steps = sum(node.step for node in world.learners.values())
    return state.tally.learners_merged, state.tally.learners_live, tokens, steps


def _stand_ins(sites: tuple[Site, ...]) -> tuple[Site, ...]:
    if len(sites) <= MOST_LEARNERS:
        return sites
    ordered = sorted(sites, key=lambda each: each.step_s)
    last = len(sites) - 1
    return tuple(ordered[each * last // (MOST_LEARNERS - 1)] for each in range(MOST_LEARNERS))


def _link(site: Site) -> Link:
    return Link(
        delay_s=site.latency_ms / 1000,
        up_bytes_s=site.up_mbit_s * MEGABIT_BYTES,
        down_bytes_s=site.down_mbit_s * MEGABIT_BYTES,
    )
