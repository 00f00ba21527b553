"""What a choice of settings needs of lines, memory, disks and purses, by the real code's sizes.

Rates are those of the pacing learner: with K = 1 the fastest site sets the rounds for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.merge.chain import KEPT_INCREMENTS
from atoll.merge.codecs import Codec, encoded_bytes
from atoll.simulator.planning.ask import Ask, Site, SyncerPlace
from atoll.store.estimate import SNAPSHOT_BYTES_PER_PARAM, DiskNeed, disk_need

MERGE_PARAMS_S = 70e6
"""Parameters that one merge thread merges per second: 16.8 million of 8 contributions took 0.24 s,
outer step, publishing and digest included (`benchmarks/results/merge_speed-*.json`, eager)."""
MERGE_BUSY = 0.7
"""Share of their time that merge threads should be busy at most."""
MEGABIT_BYTES = 1e6 / 8
FP32_BYTES = 4
STAGED_CUTS = 2
"""Copies of a fragment that a learner keeps room for (`ferry.island.CUTS_AT_ONCE`)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that lines depend on."""

    P: int
    H: int
    up: Codec
    down: Codec

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.up} up, {self.down} down, H = {self.H}"


@dataclass(frozen=True, slots=True)
class LineNeed:
    """What a site's line carries. Shares of the line; 0 where it never limits."""

    site: str
    up_bytes_s: float
    down_bytes_s: float
    up_share: float
    down_share: float
    round_trip_s: float
    """From a call to the install: upload, merge, download and the way twice."""
    join_s: float
    """Every fragment in fp32, after which it trains."""

    @property
    def share(self) -> float:
        """Of the fuller direction."""
        return max(self.up_share, self.down_share)


@dataclass(frozen=True, slots=True)
class SyncerNeed:
    """What the syncer's machine carries."""

    in_bytes_s: float
    out_bytes_s: float
    in_share: float
    out_share: float
    merge_threads: int
    merge_s: float
    memory_bytes: int
    contribution_bytes: int
    disk: DiskNeed
    disk_bytes_s: float
    disk_share: float


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """Host memory that Atoll takes on an island, beside the trainer's own."""

    base_bytes: int
    transfer_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.base_bytes + self.transfer_bytes


def pacing_step_s(sites: tuple[Site, ...]) -> float:
    """The step of the site that sets the rounds."""
    return min(each.step_s for each in sites)


def round_bytes(params: int, codec: Codec) -> int:
    """All parameters once in a codec."""
    return encoded_bytes(codec, params)


def line_need(ask: Ask, choice: Choice, site: Site) -> LineNeed:
    """One site's line under a choice."""
    round_s = choice.H * pacing_step_s(ask.sites)
    up, down = round_bytes(ask.params, choice.up), round_bytes(ask.params, choice.down)
    merge_s = ask.params / choice.P / MERGE_PARAMS_S
    way_s = 2 * site.latency_ms / 1000
    trip_s = (
        _takes_s(up / choice.P, site.up_mbit_s)
        + merge_s
        + _takes_s(down / choice.P, site.down_mbit_s)
        + way_s
    )
    return LineNeed(
        site.name,
        up / round_s,
        down / round_s,
        _share(up / round_s, site.up_mbit_s),
        _share(down / round_s, site.down_mbit_s),
        trip_s,
        _takes_s(FP32_BYTES * ask.params, site.down_mbit_s) + way_s,
    )


def syncer_need(ask: Ask, choice: Choice, tau: int) -> SyncerNeed:
    """The syncer's machine under a choice."""
    place, params = ask.syncer, ask.params
    step_s = pacing_step_s(ask.sites)
    round_s = choice.H * step_s
    num = len(ask.sites)
    in_bytes_s = num * round_bytes(params, choice.up) / round_s
    out_bytes_s = num * round_bytes(params, choice.down) / round_s
    threads = max(1, -int(-params // (MERGE_PARAMS_S * MERGE_BUSY * round_s)))
    contributions = _contribution_bytes(ask, choice, tau)
    disk = disk_need(params, choice.H, step_s)
    snapshots = SNAPSHOT_BYTES_PER_PARAM * params / 600.0
    disk_bytes_s = disk.log_bytes_per_s + snapshots
    return SyncerNeed(
        in_bytes_s,
        out_bytes_s,
        _share(in_bytes_s, place.down_mbit_s),
        _share(out_bytes_s, place.up_mbit_s),
        threads,
        params / choice.P / MERGE_PARAMS_S,
        _state_bytes(params, choice, threads) + contributions,
        contributions,
        disk,
        disk_bytes_s,
        disk_bytes_s / (place.disk_mb_s * 1e6),
    )


def learner_memory(params: int, choice: Choice) -> LearnerMemory:
    """One fp32 base of everything; staging, encoded cut and incoming version by fragment."""
    fragment = -(-params // choice.P)
    staged = STAGED_CUTS * (FP32_BYTES * fragment + encoded_bytes(choice.up, fragment))
    incoming = 2 * FP32_BYTES * fragment
    return LearnerMemory(FP32_BYTES * params, staged + incoming)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a whole run, in the money that prices are given in."""

    compute: float
    syncer: float
    egress: float
    egress_gb: float

    @property
    def total(self) -> float:
        """All together."""
        return self.compute + self.syncer + self.egress


def cost(ask: Ask, choice: Choice, hours: float) -> Cost:
    """What so many hours come to."""
    rounds = hours * 3600 / (choice.H * pacing_step_s(ask.sites))
    up_gb = rounds * round_bytes(ask.params, choice.up) / 1e9
    down_gb = rounds * round_bytes(ask.params, choice.down) / 1e9
    place: SyncerPlace = ask.syncer
    egress = sum(up_gb * each.egress_per_gb + down_gb * place.egress_per_gb for each in ask.sites)
    return Cost(
        hours * sum(each.price_per_hour for each in ask.sites),
        hours * place.price_per_hour,
        egress,
        len(ask.sites) * (up_gb + down_gb),
    )


def _contribution_bytes(ask: Ask, choice: Choice, tau: int) -> int:
    """Fragments that may be on their way at once, from everybody."""
    fragment = -(-ask.params // choice.P)
    at_once = 1 + -(-tau * choice.P // choice.H)
    return len(ask.sites) * at_once * encoded_bytes(choice.up, fragment)


def _state_bytes(params: int, choice: Choice, threads: int) -> int:
    """Parameters, momentum and published version; increments kept; a new state in each merge."""
    fragment = -(-params // choice.P)
    increments = KEPT_INCREMENTS * round_bytes(params, choice.down)
    merging = threads * (SNAPSHOT_BYTES_PER_PARAM + 2 * FP32_BYTES) * fragment
    return SNAPSHOT_BYTES_PER_PARAM * params + increments + merging


def _takes_s(num_bytes: float, mbit_s: float) -> float:
    return num_bytes / (mbit_s * MEGABIT_BYTES) if mbit_s else 0.0


def _share(bytes_s: float, mbit_s: float) -> float:
    return bytes_s / (mbit_s * MEGABIT_BYTES) if mbit_s else 0.0
