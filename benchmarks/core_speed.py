"""How many events and effects per second the cores take, and how that grows with the learners.

A whole run is simulated first (a launch floor of H = 24 one second steps, P = 24 fragments), and
what reached each core is kept: reports, calls, announcements, arrivals, merges, beats, timers. Then
a part of that stream, some steps after the beginning, is fed again to a core restored from a
snapshot, `next_deadline_s()` after every event, as drivers do. Checks of invariants are off.

The cores are to take 50,000 items a second (an item is an event or an effect), and the time of an
item may grow with the logarithm of the number of learners at most. Times are processor time of this
process: other load on the machine still costs caches and shared cores, so read `load_before`.

    python benchmarks/core_speed.py [--learners 8 64 512] [--repeats 7] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from _common import Spread, machine, spread, write_results

from atoll.core.coordinator import CoordinatorCore, RunSettings
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

WARM_S = 32.0
AIM_PER_S = 50_000
MOST_LEARNERS_WATCHED = 8
Stream = list[tuple[float, object]]


@dataclass(frozen=True)
class Kept:
    """Part of what reached cores of one kind, and how to have cores that stand where it begins."""

    core: str
    M: int
    streams: list[Stream]
    num_items: int
    fresh: list[Callable[[], Any]]

    @property
    def num_events(self) -> int:
        return sum(len(stream) for stream in self.streams)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    core: str
    M: int
    num_events: int
    num_items: int
    time: Spread

    @property
    def items_per_s(self) -> float:
        return self.num_items / self.time.median_s

    @property
    def us_per_item(self) -> float:
        return 1e6 * self.time.median_s / self.num_items


def main() -> None:
    arguments = parse_arguments()
    print(
        f"{'core':12} {'M':>4} {'events':>7} {'items':>7}   items/s: median    min    max   us/item"
    )
    rows = []
    for M in arguments.learners:
        for kept in streams(M, arguments.steps):
            if arguments.profile:
                profile(kept)
            rows.append(
                Row(kept.core, M, kept.num_events, kept.num_items, timed(kept, arguments.repeats))
            )
            show(rows[-1])
    if not arguments.profile:
        report = {
            "machine": machine(),
            "aim_items_per_s": AIM_PER_S,
            "protocol": {"P": 24, "H": 24, "K": 1, "steps": arguments.steps},
            "repeats": arguments.repeats,
            "rows": [asdict(r) | {"items_per_s": round(r.items_per_s)} for r in rows],
        }
        write_results("core_speed", report["machine"]["processor"], report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--learners", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--steps", type=int, default=48, help="steps of the part that is timed")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    return parser.parse_args()


def streams(M: int, num_steps: int) -> list[Kept]:
    """Simulate a run, and keep what reached the shard, the coordinator and one learner."""
    settings = ProtocolSettings(M=M, P=24, H=24, K=1)
    run = RunSettings("speed", "layout", 10**12, dataset_items=10**9, lease_items=10**4)
    link = Link(delay_s=0.02, bulk_s=0.3)
    islands = [Island(f"island-{number:04}", link=link) for number in range(M)]
    world = World(settings, run, islands, Conditions(seed=1, check=False))
    steps = num_steps if M < 100 else max(8, num_steps // 4)
    world.run_for(WARM_S)
    names = [island.name for island in islands[:MOST_LEARNERS_WATCHED]]
    watched: dict[str, Any] = {name: world.learners[name].core for name in names}
    watched |= {"shard-0": world.shards[0].core, "coordinator": world.coordinator.core}
    states = {party: core.snapshot() for party, core in watched.items()}
    kept: dict[str, Stream] = {party: [] for party in watched}
    counts = dict.fromkeys(kept, 0)

    def record(party: str, now_s: float, event: object, effects: list[Any]) -> None:
        if party in kept:
            kept[party].append((now_s, event))
            counts[party] += 1 + len(effects)

    world.recorders.append(record)
    world.run_for(float(steps))

    def fresh(party: str) -> Callable[[], Any]:
        state: Any = states[party]
        if party == "shard-0":
            return lambda: ShardCore.restore(settings, 0, 1, state)
        if party == "coordinator":
            return lambda: CoordinatorCore.restore(settings, run, state)
        return lambda: LearnerCore.restore(settings, "layout", state)

    def of(core: str, parties: list[str]) -> Kept:
        items = sum(counts[party] for party in parties)
        return Kept(core, M, [kept[p] for p in parties], items, [fresh(p) for p in parties])

    return [of("shard", ["shard-0"]), of("coordinator", ["coordinator"]), of("learner", names)]


def timed(kept: Kept, repeats: int) -> Spread:
    times = []
    for _ in range(repeats):
        cores = [fresh() for fresh in kept.fresh]
        gc.collect()
        begin_s = time.process_time()
        num_items = feed_all(cores, kept.streams)
        times.append(time.process_time() - begin_s)
        assert num_items == kept.num_items, "the same events made other effects"
    return spread(times)


def feed_all(cores: list[Any], streams: list[Stream]) -> int:
    return sum(feed(core, stream) for core, stream in zip(cores, streams, strict=True))


def feed(core: Any, stream: Stream) -> int:
    """Drive a core as every driver does; returns how many items went through."""
    num_items = 0
    for now_s, event in stream:
        num_items += 1 + len(core.handle(now_s, event))
        core.next_deadline_s()
    return num_items


def profile(kept: Kept) -> None:
    cores, profiler = [fresh() for fresh in kept.fresh], cProfile.Profile()
    profiler.runcall(feed_all, cores, kept.streams)
    print(f"== {kept.core}, M = {kept.M}")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def show(row: Row) -> None:
    slowest, fastest = row.num_items / row.time.max_s, row.num_items / row.time.min_s
    print(
        f"{row.core:12} {row.M:4} {row.num_events:7} {row.num_items:7}   "
        f"{row.items_per_s:15,.0f} {slowest:8,.0f} {fastest:8,.0f} {row.us_per_item:7.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
