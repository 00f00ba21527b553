"""Goodput, uptime and participation of a system in the world of chips, with standard errors.

* Goodput: share of the allocated chip time that went into useful training. Useful is a step's part
  of the slices that handed in; where there is a syncer, only what it has merged.
* Uptime: share of the time in which at least one learner steps.
* Participation: learners merged / learners live, per round.

Standard errors come from the means of successive stretches of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from atoll.core.coordinator import RunSettings
from atoll.simulator.chips.constants import CHIPS, PROTOCOL, ChipConstants
from atoll.simulator.chips.fleet import ENDLESS_TOKENS, TOKENS_PER_SLICE, ChipWorld
from atoll.simulator.chips.island import ChipIsland, Site, elastic_island, rigid_island
from atoll.simulator.chips.job import Job
from atoll.simulator.chips.settings import SINGLE, ChipRun, method_of
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions

NUM_BATCHES = 10
DAY_S = 86_400.0
SINGLE_JOB_S = 40 * DAY_S
"""Measured span of a single job when nobody asks for another: about 100,000 failures at most."""
LEARNER_S = {"diloco": 280_000.0, "streaming": 150_000.0, "decoupled": 280_000.0}
"""The same, times learners, where cores are driven."""
USUAL_FRAGMENTS = 8
SHORTEST_S = 1800.0
"""Of many learners at least so much is measured: five rounds of every fragment."""

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Totals:
    """What had come together at one time, in shares of a second of the whole allocation."""

    at_s: float = 0.0
    useful_s: float = 0.0
    up_s: float = 0.0
    paused_s: float = 0.0
    absent_s: float = 0.0
    waited_s: float = 0.0
    merged: int = 0
    live: int = 0
    merges: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A mean and its standard error."""

    mean: float
    se: float


@dataclass(frozen=True, slots=True)
class Goodput:
    """What a run came to. Shares from 0 to 1."""

    run: ChipRun
    span_s: float
    goodput: Share
    uptime: Share
    participation: Share
    merges: int
    failures: int
    paused: float
    absent: float
    waited: float
    over_time: tuple[float, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {"goodput": self.goodput, "uptime": self.uptime}
        shares |= {"participation": self.participation}
        document: dict[str, Any] = {}
        for name, share in shares.items():
            document |= {name: share.mean, f"{name}_se": share.se}
        document |= {"merges": self.merges, "failures": self.failures}
        lost = {"paused": self.paused, "absent": self.absent, "waited": self.waited}
        settings = asdict(self.run) | {"days": self.span_s / DAY_S, "H": PROTOCOL.H}
        return document | {"lost_to": lost, "settings": settings, "over_time": self.over_time}


def measure(
    run: ChipRun, constants: ChipConstants = CHIPS, progress: Progress = lambda _: None
) -> Goodput:
    """Simulate a run; the same seed gives the same result."""
    span_s = span_of(run)
    totals: Callable[[float], Totals]
    if run.system in SINGLE:
        begin_s, totals = 0.0, single_job(run, constants)
    else:
        begin_s = PROTOCOL.warm_up_steps * constants.step_s
        totals = fleet(run, constants)
    seen = []
    for number in range(NUM_BATCHES + 1):
        seen.append(totals(begin_s + span_s * number / NUM_BATCHES))
        progress(number / NUM_BATCHES)
    return summary(run, span_s, seen)


def span_of(run: ChipRun) -> float:
    """The simulated time that is measured."""
    if run.days > 0:
        return run.days * DAY_S
    if run.system in SINGLE:
        return SINGLE_JOB_S * min(1.0, 1_200_000 / (run.chips / run.mtbi_years))
    learners = max(4, run.learners) * max(1.0, run.fragments / USUAL_FRAGMENTS)
    return max(SHORTEST_S, LEARNER_S[run.system] / learners)


def single_job(run: ChipRun, constants: ChipConstants) -> Callable[[float], Totals]:
    """A job over all chips; a function that lets it run on and tells what came together."""
    make = rigid_island if run.system == "none" else elastic_island
    island = make(Site(run.chips, run.mtbi_years, f"{run.seed}/0"), constants)
    job = Job(island, constants.step_s)

    def totals(at_s: float) -> Totals:
        job.run_until(at_s)
        return Totals(
            job.now_s,
            job.useful_slice_s / island.num_slices,
            job.up_s,
            island.paused_s,
            job.absent_slice_s / island.num_slices,
            failures=island.weather.num_failures,
        )

    return totals


def fleet(run: ChipRun, constants: ChipConstants) -> Callable[[float], Totals]:
    """Learners and a syncer; a function that lets them run on and tells what came together."""
    world = chip_world(run, constants, Conditions(run.seed, PROTOCOL.merge_s, check=False))
    num_slices = sum(each.num_slices for each in world.chips.values())
    per_slice_s = constants.step_s / num_slices

    def totals(at_s: float) -> Totals:
        world.clock.run_until(at_s)
        tallies = [shard.core.state.tally for shard in world.shards]
        chips = list(world.chips.values())
        return Totals(
            at_s,
            world.merged_tokens / TOKENS_PER_SLICE * per_slice_s,
            world.uptime.up_s(at_s),
            sum(each.paused_s * each.num_slices for each in chips) / num_slices,
            sum(node.absent_slice_s for node in world.nodes) / num_slices,
            sum(node.waited_s * node.chips.num_slices for node in world.nodes) / num_slices,
            sum(tally.learners_merged for tally in tallies),
            sum(tally.learners_live for tally in tallies),
            sum(tally.merges for tally in tallies),
            sum(each.weather.num_failures for each in chips),
        )

    return totals


def chip_world(run: ChipRun, constants: ChipConstants, conditions: Conditions) -> ChipWorld:
    """Islands of equal size that join within the first step, and the syncer."""
    step_s = constants.step_s
    method = method_of(run.system, run.learners, run.fragments, step_s, run.overlap_steps)
    link = Link(PROTOCOL.control_s, bulk_s=PROTOCOL.transfer_s / method.protocol.P)
    names = [f"island-{number:03}" for number in range(run.learners)]
    islands = [
        Island(name, step_s, constants.step_jitter, link, step_s * number / run.learners)
        for number, name in enumerate(names)
    ]
    settings = RunSettings(
        "chips", "layout", ENDLESS_TOKENS, lease_s=DAY_S, progress_every_s=2 * PROTOCOL.beat_s
    )
    sites = [
        Site(run.island_chips, run.mtbi_years, f"{run.seed}/{number}")
        for number in range(run.learners)
    ]
    chips: dict[str, ChipIsland] = {
        name: elastic_island(site, constants) for name, site in zip(names, sites, strict=True)
    }
    return ChipWorld(method, settings, islands, conditions, chips)


# ---------------------------------------------------------------- statistics


def summary(run: ChipRun, span_s: float, seen: list[Totals]) -> Goodput:
    """Means over the whole span, standard errors from its stretches."""
    first, last = seen[0], seen[-1]
    took_s = last.at_s - first.at_s

    def rate(of: Callable[[Totals], float]) -> float:
        return (of(last) - of(first)) / took_s

    useful = _ratios(seen, lambda t: t.useful_s, lambda t: t.at_s)
    # What is merged in a span may have been trained before it, so a share may come out above 1.
    return Goodput(
        run,
        span_s,
        _share(useful, min(1.0, rate(lambda t: t.useful_s))),
        _share(_ratios(seen, lambda t: t.up_s, lambda t: t.at_s), rate(lambda t: t.up_s)),
        _participation(run, seen),
        last.merges - first.merges,
        last.failures - first.failures,
        rate(lambda t: t.paused_s),
        rate(lambda t: t.absent_s),
        rate(lambda t: t.waited_s),
        tuple(useful),
    )


def _participation(run: ChipRun, seen: list[Totals]) -> Share:
    if run.system in SINGLE:
        return Share(1.0, 0.0)
    shares = _ratios(seen, lambda t: t.merged, lambda t: t.live)
    live = seen[-1].live - seen[0].live
    mean = (seen[-1].merged - seen[0].merged) / live if live else 0.0
    return _share([min(1.0, each) for each in shares], min(1.0, mean))


def _ratios(
    seen: list[Totals], of: Callable[[Totals], float], over: Callable[[Totals], float]
) -> list[float]:
    """The ratio in each stretch that has something to divide by."""
    parts = [(of(b) - of(a), over(b) - over(a)) for a, b in pairwise(seen)]
    return [part / whole for part, whole in parts if whole > 0]


def _share(batches: list[float], mean: float) -> Share:
    if len(batches) < 2:
        return Share(mean, 0.0)
    middle = math.fsum(batches) / len(batches)
    squares = math.fsum((each - middle) ** 2 for each in batches)
    return Share(mean, math.sqrt(squares / (len(batches) - 1) / len(batches)))
