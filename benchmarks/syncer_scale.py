"""How much one syncer merges as the number of learners grows.

A syncer process and M scripted learners, threads of one process beside it on the same cores: each
tells its steps, answers every call with the same made-up displacement, and fetches every published
version without decoding it. Every round waits for all M. Nothing is trained, so the syncer, the
scripted side and the disk are all that there is; processor time says which of them was the limit.

Per M: contributions merged per second, bytes per second in and out, and the seconds from a closed
round to a durable merge. With fragments of 64 Ki parameters the protocol's own cost shows, with
4 Mi the bytes'. Merges are those of an eager backend with one thread. There is no aim: the bound is
two processes on these cores.

    python benchmarks/syncer_scale.py [--quick] [--learners 2 4 8 16 32] [--seconds 12]
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _common import machine, write_results
from _lagoon import Lagoon
from _scripted import Displacement, Scripted, layout_of

from atoll.ferry.bulk import Request

SEED = 0
P = 4
SIZES = {"small": 1 << 16, "large": 4 << 20}
WAIT_S = 60.0
WARM_S = 1.5
SLICES = 3


@dataclass(frozen=True)
class Row:
    """One M at one size; per-second figures are the median of slices, with the extremes."""

    size: str
    M: int
    contributions_per_s: list[float]
    in_gb_s: float
    out_gb_s: float
    durable_s: float
    cpu_syncer: float
    cpu_learners: float
    dropped: int
    """Cuts that came after their round had closed."""


class Swarm:
    """M learners, each in a thread of its own, until told to stop."""

    def __init__(self, lagoon: Lagoon, M: int, numel: int) -> None:
        self.numel = numel
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.what = Displacement(numel, SEED)
        layout, theta = layout_of(P, numel), torch.zeros(numel)
        self.learners = [Scripted(lagoon.invite, f"learner-{i}", layout) for i in range(M)]
        for one in self.learners:
            one.join(theta)
        self.threads = [threading.Thread(target=self.run, args=(o,)) for o in self.learners]
        for thread in self.threads:
            thread.start()

    def run(self, one: Scripted) -> None:
        buffer = memoryview(bytearray(4 * self.numel))
        try:
            while not self.stop.is_set():
                self.turn(one, buffer)
        except (OSError, RuntimeError, TimeoutError) as error:
            if not self.stop.is_set():
                self.errors.append(error)

    def turn(self, one: Scripted, buffer: memoryview) -> None:
        """One step, and all that follows from it."""
        one.train()
        while not one.calls and not self.stop.is_set():
            try:
                one.hear(0.5)
            except TimeoutError:
                continue
            self.fetch_news(one, buffer)
        while one.calls:
            one.contribute(one.calls.popleft(), self.what)

    def fetch_news(self, one: Scripted, buffer: memoryview) -> None:
        while one.news:
            fragment = one.news.popleft()
            base = max(0, one.versions[fragment] - 1)
            path = f"{one.door.path('fragments', fragment)}?base={base}"
            one.own.ask(Request("GET", path), buffer)

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(WAIT_S)
        for one in self.learners:
            one.close()
        if self.errors:
            raise self.errors[0]


def measure(size: str, M: int, seconds: float) -> Row:
    protocol = {"M": M, "P": P, "H": P, "K": "all", "silence_s": 600.0, "first_round_s": 300.0}
    with Lagoon({"protocol": protocol, "service": {"upload_idle_s": 300.0}}) as lagoon:
        swarm = Swarm(lagoon, M, SIZES[size])
        time.sleep(WARM_S)
        marks = [Mark.of(lagoon)]
        for _ in range(SLICES):
            time.sleep(seconds / SLICES)
            marks.append(Mark.of(lagoon))
        swarm.close()
    rates = [marks[i + 1].contributions_per_s(marks[i]) for i in range(SLICES)]
    first, last = marks[0], marks[-1]
    took_s, merges = last.at_s - first.at_s, max(1, last.merges - first.merges)
    row = Row(
        size,
        M,
        sorted(round(rate, 1) for rate in rates),
        (last.bytes_in - first.bytes_in) / took_s / 1e9,
        (last.bytes_out - first.bytes_out) / took_s / 1e9,
        (last.merge_s - first.merge_s) / merges,
        (last.cpu_syncer_s - first.cpu_syncer_s) / took_s,
        (last.cpu_own_s - first.cpu_own_s) / took_s,
        sum(one.num_dropped for one in swarm.learners),
    )
    show(row)
    return row


@dataclass(frozen=True)
class Mark:
    """The counters at one time."""

    at_s: float
    contributions: int
    merges: int
    merge_s: float
    bytes_in: int
    bytes_out: int
    cpu_syncer_s: float
    cpu_own_s: float

    @staticmethod
    def of(lagoon: Lagoon) -> Mark:
        status = lagoon.status()
        counts, tally = status["counts"], status["shards"]["0"]["tally"]
        return Mark(
            time.monotonic(),
            tally["learners_merged"],
            counts["merges"],
            counts["merge_s"],
            counts["bytes_in"],
            counts["bytes_out"],
            lagoon.cpu_s(),
            time.process_time(),
        )

    def contributions_per_s(self, before: Mark) -> float:
        return (self.contributions - before.contributions) / (self.at_s - before.at_s)


def show(row: Row) -> None:
    low, middle, high = (row.contributions_per_s[i] for i in (0, SLICES // 2, SLICES - 1))
    print(
        f"{row.size:6} M {row.M:3}   {middle:7.1f} contributions/s ({low:.1f} to {high:.1f})   "
        f"in {row.in_gb_s:6.3f} out {row.out_gb_s:6.3f} GB/s   durable merge "
        f"{1e3 * row.durable_s:7.1f} ms   cores: syncer {row.cpu_syncer:.2f}, "
        f"learners {row.cpu_learners:.2f}   dropped {row.dropped}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    parser.add_argument("--learners", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    seconds = 3.0 if arguments.quick else arguments.seconds
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine(), "seed": SEED, "seconds": seconds}
    report |= {"P": P, "fragment_numel": SIZES, "uplink": "bf16", "downlink": "bf16"}
    report["rows"] = [
        asdict(measure(size, M, seconds)) for size in SIZES for M in arguments.learners
    ]
    if not arguments.quick:
        write_results("syncer_scale", report["machine"]["processor"], report)


if __name__ == "__main__":
    main()
