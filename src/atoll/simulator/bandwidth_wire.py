"""The same needs as bytes counted on the simulated wire.

Decoupled runs are the production cores in a `World`, learners of one pace on links with a rate.
The three systems in which everybody waits for everybody have no cores to run; their ring passes
chunk after chunk through the lanes of all links. Nothing here knows the formulas of `bandwidth`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from atoll.core.coordinator import RunSettings
from atoll.core.ids import shard_of
from atoll.core.settings import ProtocolSettings
from atoll.merge.codecs import encoded_bytes
from atoll.simulator.bandwidth import BACKWARD_SHARE, Job, System, body_sizes
from atoll.simulator.network import Island, Link
from atoll.simulator.payload import NoPayload
from atoll.simulator.wire import BodySizes, Lane
from atoll.simulator.world import Conditions, World

TOKENS_PER_STEP = 1000
WARM_UP_ROUNDS = 2
COUNTED_ROUNDS = 5
THIN_LEARNERS = 4
THIN_WARM_UP_ROUNDS = 6
"""Work is carried over up to two rounds before it is dropped as too old."""
BUCKETS = 48
"""Parts in which a gradient becomes ready during the backward pass."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What passed one link in each direction, in bytes per second, and what it did to training."""

    up_bytes_s: float
    down_bytes_s: float
    peak_up_bytes_s: float
    peak_down_bytes_s: float
    utilisation: float


@dataclass(frozen=True, slots=True)
class Thin:
    """A decoupled run on links of a rate: shares from 0 to 1.

    `rounds` is merges over those that are due at full speed, `merged` trained tokens that were
    merged, `participation` learners merged over learners live; `stall` is time waited for the link.
    """

    rate_bytes_s: float
    rounds: float
    merged: float
    participation: float
    stall: float


def count(job: Job, system: System, bytes_s: float) -> Counted:
    """Run a system on links of this rate and count what passes the first one."""
    if system in ("decoupled", "decoupled-apart"):
        return _count_decoupled(job, bytes_s, spread=system == "decoupled")
    return _count_ring(Ring(job, bytes_s), job, system)


# ---------------------------------------------------------------- decoupled: the cores


def decoupled_world(job: Job, bytes_s: float, spread: bool = False) -> World:
    """Learners of one pace, one in each data centre, on links of this rate both ways.

    `spread`: bytes between a learner and the shard in its own data centre take no line.
    """
    link = Link(delay_s=0.01, up_bytes_s=bytes_s, down_bytes_s=bytes_s)
    islands = [
        Island(f"site-{number}", job.step_s, 0.0, link, joins_at_s=0.01 * number)
        for number in range(job.num_sites)
    ]
    settings = ProtocolSettings(M=job.num_sites, P=job.P, H=job.H, tau="auto", receipt="keep")
    full_s = 4 * job.num_params / bytes_s
    run = RunSettings("wire", "layout", 10**15, initialise_s=max(120.0, 2 * full_s))
    sizes = body_sizes(job.fragment_numels, job.precision, job.precision)
    conditions = Conditions(merge_s=0.01, sizes=sizes, window_s=job.step_s, check=False)
    world = World(settings, run, islands, conditions, NoPayload(TOKENS_PER_STEP))
    for number, node in enumerate(world.learners.values() if spread else ()):
        node.sizes = _leaving(sizes, number, job.num_sites)
    return world


def _leaving(sizes: BodySizes, site: int, num_sites: int) -> BodySizes:
    """Fragments whose shard stands in the same data centre weigh nothing."""
    up, down, full = (
        tuple(0 if shard_of(p, num_sites) == site else size for p, size in enumerate(each))
        for each in (sizes.up, sizes.down, sizes.full)
    )
    return replace(sizes, up=up, down=down, full=full)


def _count_decoupled(job: Job, bytes_s: float, spread: bool) -> Counted:
    world = decoupled_world(job, bytes_s, spread)
    _begin(world, job)
    round_s = job.H * job.step_s
    world.run_for(WARM_UP_ROUNDS * round_s)
    wire = next(iter(world.learners.values())).wire
    from_s, steps = world.clock.now_s, _steps(world)
    up_bytes, down_bytes = wire.up.num_bytes, wire.down.num_bytes
    world.run_for(COUNTED_ROUNDS * round_s)
    until_s = world.clock.now_s
    elapsed_s = until_s - from_s
    ideal = job.num_sites * elapsed_s / job.step_s
    return Counted(
        (wire.up.num_bytes - up_bytes) / elapsed_s,
        (wire.down.num_bytes - down_bytes) / elapsed_s,
        max(wire.up.passed(from_s, until_s)) / job.step_s,
        max(wire.down.passed(from_s, until_s)) / job.step_s,
        min(1.0, (_steps(world) - steps) / ideal),
    )


def thin_line(job: Job, bytes_s: float) -> Thin:
    """What becomes of a decoupled run on links of this rate; four learners stand for more."""
    job = replace(job, num_sites=min(job.num_sites, THIN_LEARNERS))
    world = decoupled_world(job, bytes_s)
    _begin(world, job)
    round_s = job.H * job.step_s
    world.run_for(THIN_WARM_UP_ROUNDS * round_s)
    before, steps, from_s = _standing(world), _steps(world), world.clock.now_s
    world.run_for(2 * COUNTED_ROUNDS * round_s)
    after, elapsed_s = _standing(world), world.clock.now_s - from_s
    merges, merged, live, tokens = (b - a for a, b in zip(before, after, strict=True))
    trained = (_steps(world) - steps) * TOKENS_PER_STEP
    ideal_steps = job.num_sites * elapsed_s / job.step_s
    return Thin(
        bytes_s,
        min(1.0, merges / (job.P * elapsed_s / round_s)),
        min(1.0, tokens / job.P / trained),
        merged / max(1, live),
        max(0.0, 1 - (_steps(world) - steps) / ideal_steps),
    )


def _begin(world: World, job: Job) -> None:
    """Until version 0 is everywhere and everybody trains."""
    limit_s = 1e4 * job.H * job.step_s
    begun = world.run_until(lambda: all(n.step > 0 for n in world.learners.values()), limit_s)
    assert begun, "a run without faults begins"


def _steps(world: World) -> int:
    return sum(node.step for node in world.learners.values())


def _standing(world: World) -> tuple[int, int, int, int]:
    """Merges, learners merged, learners live, and tokens merged over all fragments."""
    tally = world.shards[0].core.state.tally
    tokens = sum(each.merged_tokens for each in world.shards[0].core.state.fragments)
    return tally.merges, tally.learners_merged, tally.learners_live, tokens


# ---------------------------------------------------------------- all together: a ring


class Ring:
    """All-reduces over the lanes of all links; data centres stand in a circle."""

    def __init__(self, job: Job, bytes_s: float):
        self.num_sites = job.num_sites
        self.lanes = [Lane(bytes_s, job.step_s) for _ in range(job.num_sites)]

    def reduce(self, ready_s: float, num_bytes: float) -> float:
        """Average so many bytes that everybody has; when the last of them has everything.

        Twice D - 1 times everybody passes on a D-th to the next: sums first, then results.
        """
        chunk = round(num_bytes / self.num_sites)
        have_s = [ready_s] * self.num_sites
        for _ in range(2 * (self.num_sites - 1)):
            sent_s = [lane.send(at_s, chunk) for lane, at_s in zip(self.lanes, have_s, strict=True)]
            have_s = [sent_s[-1], *sent_s[:-1]]
        return max(have_s)


def _count_ring(ring: Ring, job: Job, system: System) -> Counted:
    num_steps = (WARM_UP_ROUNDS + COUNTED_ROUNDS) * job.H
    warm = WARM_UP_ROUNDS * job.H
    numels = job.fragment_numels
    calls = _calls(job, system)
    coming: dict[int, float] = {}
    lane = ring.lanes[0]
    now_s = from_s = 0.0
    from_bytes = 0
    for step in range(1, num_steps + 1):
        start_s = now_s
        now_s += job.step_s
        if system == "data-parallel":
            now_s = max(now_s, _reduce_gradient(ring, job, start_s))
        for fragment in calls.get(step % job.H, ()):
            size = encoded_bytes(job.precision, numels[fragment])
            overlap = job.tau if system == "streaming" else 0
            done_s = ring.reduce(now_s, size)
            coming[step + overlap] = max(done_s, coming.get(step + overlap, 0.0))
        now_s = max(now_s, coming.pop(step, 0.0))
        if step == warm:
            from_s, from_bytes = now_s, lane.num_bytes
    average = (lane.num_bytes - from_bytes) / (now_s - from_s)
    peak = max(lane.passed(from_s, now_s)) / job.step_s
    busy = (num_steps - warm) * job.step_s / (now_s - from_s)
    return Counted(average, average, peak, peak, busy)


def _calls(job: Job, system: System) -> dict[int, list[int]]:
    """Fragments by the step, counted modulo H, after which they leave."""
    if system == "data-parallel":
        return {}
    calls: dict[int, list[int]] = {}
    for fragment in range(job.P):
        at = 0 if system == "diloco" else fragment * job.H // job.P
        calls.setdefault(at, []).append(fragment)
    return calls


def _reduce_gradient(ring: Ring, job: Job, start_s: float) -> float:
    """Buckets leave as the backward pass makes them."""
    backward_s = BACKWARD_SHARE * job.step_s
    done_s = start_s
    for bucket in range(BUCKETS):
        ready_s = start_s + job.step_s - backward_s * (1 - bucket / BUCKETS)
        done_s = ring.reduce(ready_s, job.gradient_bytes / BUCKETS)
    return done_s
