"""How fast bytes go between the ferry's client and the syncer's server, checksums included.

One scripted learner and one syncer process on the loopback, with the ferry's own connections (six
at once), uploader and downloader. In turn (A B A B), without TLS and under it:

* in, parts: a contribution in parts, each with its crc32, made and checked.
* in, handed over: the same with sha256, sums for the merge, and commit, in a real round.
* out, parts: a published version in full, in ranges. Its sha256 is checked afterwards:
* out, checked: with copy and digest.

Then through a link of 1 Gbit/s (`atoll.chaos.proxy`), as shares of its nominal rate, and the round
trip of a ping on the control connection, quiet and while parts flow in and out by turns, flat out:
from another process, as another learner sees it, and from the process that carries the bytes.

Client and syncer share the machine's cores, so on two cores the sum of both is what shows.
Processor time is that of both processes, for parts only: what is handed over is merged as well.

Aims: 1.2 GB/s in, 2 out, 0.5 either way under TLS, 95 % of a 1 Gbit/s link, and a 99th percentile
of control latency of at most 100 ms. GB are 10^9 bytes.

    python benchmarks/transfer.py [--quick] [--repeats 9] [--mib 32]
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

import torch
from _common import Spread, machine, spread, write_results
from _lagoon import Lagoon
from _scripted import Displacement, Scripted, layout_of

from atoll.access.invite import Invite
from atoll.ferry.bulk import BulkConnection
from atoll.ferry.download import Downloader
from atoll.ferry.transfers import NUM_CONNECTIONS
from atoll.ferry.upload import Parcel, Uploader

SEED = 0
PROTOCOL = {"M": 1, "P": 1, "H": 2, "silence_s": 3600.0, "first_round_s": 600.0}
LINK_MBIT_S = 1000.0
AIMS = {"in, parts": 1.2, "out, parts": 2.0}
TLS_AIM = 0.5
LINK_AIM = 0.95
LATENCY_AIM_MS = 100.0


class PartsOnly(Uploader):
    """Sends the parts and never commits."""

    def _commit(self, own: BulkConnection, parcel: Parcel) -> None:
        """The next upload replaces this one."""


class TimedDownloader(Downloader):
    """Knows when the last byte was there."""

    there_s = 0.0

    def _decoded(self, *args: Any) -> Any:
        self.there_s = time.perf_counter()
        return super()._decoded(*args)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    link: str
    num_bytes: int
    time: Spread
    aim_gb_s: float
    cpu_client_s_per_gb: float
    cpu_syncer_s_per_gb: float

    @property
    def gb_s(self) -> float:
        return self.num_bytes / self.time.median_s / 1e9


class Bench:
    """One learner that moves bytes."""

    def __init__(self, lagoon: Lagoon, numel: int) -> None:
        self.lagoon = lagoon
        self.numel = numel
        self.one = Scripted(lagoon.invite, "a", layout_of(1, numel), NUM_CONNECTIONS)
        self.one.join(torch.zeros(numel))
        self.what = Displacement(numel, SEED)
        self.parts = PartsOnly(self.one.door, self.one.carrier)
        self.down = TimedDownloader(self.one.door, self.one.carrier, "bf16")

    def send_parts(self) -> float:
        parcel = self.what.parcel(self.one.next_cut(0))
        begin_s = time.perf_counter()
        self.parts.send(self.one.own, parcel, lambda: True, again=False)
        return time.perf_counter() - begin_s

    def hand_over(self) -> float:
        """A real round; the clock stops at the answer to the commit."""
        one = self.one
        while not one.calls:
            one.train()
            one.hear(60.0)
        begin_s = time.perf_counter()
        one.contribute(one.calls.popleft(), self.what)
        took_s = time.perf_counter() - begin_s
        version = one.versions.get(0, 0)
        while one.versions.get(0, 0) == version:
            one.hear(60.0)
        return took_s

    def fetch(self, checked: bool) -> float:
        begin_s = time.perf_counter()
        self.down.fetch(self.one.own, 0, self.numel, None)
        return (time.perf_counter() if checked else self.down.there_s) - begin_s

    def rows(self, link: str, repeats: int) -> list[Row]:
        works: dict[str, tuple[Callable[[], float], int]] = {
            "in, parts": (self.send_parts, 2 * self.numel),
            "in, handed over": (self.hand_over, 2 * self.numel),
            "out, parts": (lambda: self.fetch(False), 4 * self.numel),
            "out, checked": (lambda: self.fetch(True), 4 * self.numel),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        cpu: dict[str, list[float]] = {name: [0.0, 0.0] for name in works}
        for turn in range(repeats + 1):
            for name, (work, _) in works.items():
                before = time.process_time(), self.lagoon.cpu_s()
                took_s = work()
                if turn:  # the first one takes memory
                    times[name].append(took_s)
                    cpu[name][0] += time.process_time() - before[0]
                    cpu[name][1] += self.lagoon.cpu_s() - before[1]
        rows = []
        for name, (_, num_bytes) in works.items():
            client_s, syncer_s = (each / repeats / num_bytes * 1e9 for each in cpu[name])
            aims = {"clear": AIMS, "tls": dict.fromkeys(AIMS, TLS_AIM)}.get(link, {})
            aim = aims.get(name, 0.0)
            rows.append(Row(name, link, num_bytes, spread(times[name]), aim, client_s, syncer_s))
            show(rows[-1])
        return rows


def show(row: Row) -> None:
    slow, fast = (row.num_bytes / each / 1e9 for each in (row.time.max_s, row.time.min_s))
    aim = f"aim {row.aim_gb_s:.1f}: {'met' if row.gb_s >= row.aim_gb_s else 'missed'}"
    cpu = f"client {row.cpu_client_s_per_gb:.2f}, syncer {row.cpu_syncer_s_per_gb:.2f}"
    print(
        f"{row.what:16} {row.link:9} {row.gb_s:6.2f} GB/s ({slow:.2f} to {fast:.2f})   "
        f"{'cpu s/GB: ' + cpu if row.what in AIMS else '':38}   {aim if row.aim_gb_s else ''}",
        flush=True,
    )


# ------------------------------------------------------------ a thin link


def on_a_thin_link(numel: int, repeats: int) -> list[dict[str, Any]]:
    """Shares of a link's nominal rate, in both directions."""
    found = []
    with Lagoon({"protocol": PROTOCOL}, mbit_s=LINK_MBIT_S) as lagoon:
        bench = Bench(lagoon, numel)
        for row in bench.rows("1 Gbit/s", repeats):
            share = row.gb_s * 8e3 / LINK_MBIT_S
            found.append(asdict(row) | {"gb_s": row.gb_s, "share_of_link": share})
            if row.what in AIMS:
                verdict = "met" if share >= LINK_AIM else "missed"
                print(f"   {row.what}: {share:.1%} of the link, aim {LINK_AIM:.0%}: {verdict}")
        bench.one.close()
    return found


# ------------------------------------------------------------ control under bulk


def pings_s(one: Scripted, seconds: float) -> list[float]:
    """Round trips on a control connection, about 200 a second."""
    times, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        begin_s = time.perf_counter()
        if not one.socket.ping().wait(30.0):
            raise TimeoutError("a ping was not answered within 30 s")
        times.append(time.perf_counter() - begin_s)
        time.sleep(0.005)
    return times


def ping_process(invite: Invite, numel: int, seconds: float, answer: Any) -> None:
    """Another learner, in another process: quiet first, then beside the bulk."""
    one = Scripted(invite, "other", layout_of(1, numel))
    one.join(torch.zeros(numel))
    for _ in range(2):
        answer.recv()
        answer.send(pings_s(one, seconds))
    one.close()


def control_latency(tls: bool, numel: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a ping, quiet and beside parts flowing both ways."""
    found: dict[str, dict[str, float]] = {}
    with Lagoon({"protocol": PROTOCOL}, tls=tls) as lagoon:
        bench = Bench(lagoon, numel)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        other = context.Process(target=ping_process, args=(lagoon.invite, numel, seconds, there))
        other.start()
        for how in ("quiet", "full bulk"):
            stop = threading.Event()
            sender = threading.Thread(target=flood, args=(bench, stop))
            if how == "full bulk":
                sender.start()
            here.send("go")
            found[f"{how}, other process"] = in_ms(here.recv())
            found[f"{how}, same process"] = in_ms(pings_s(bench.one, seconds))
            stop.set()
            if how == "full bulk":
                sender.join()
        other.join()
        bench.one.close()
    for name, times in found.items():
        aim = "quiet" not in name
        verdict = "met" if times["p99"] <= LATENCY_AIM_MS else "missed"
        print(
            f"ping, {name:26} {'tls' if tls else 'clear':6} median {times['median']:6.2f} ms   "
            f"p99 {times['p99']:6.2f}   max {times['max']:6.2f}   {f'aim 100: {verdict}' * aim}",
            flush=True,
        )
    return found


def flood(bench: Bench, stop: threading.Event) -> None:
    """Parts in and out, turn by turn, each over all connections."""
    while not stop.is_set():
        bench.send_parts()
        bench.fetch(False)


def in_ms(times: list[float]) -> dict[str, float]:
    p99 = quantiles(times, n=100)[98]
    plain = {"min": min(times), "median": median(times), "p99": p99, "max": max(times)}
    return {name: 1e3 * value for name, value in plain.items()} | {"count": len(times)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, nothing written")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--mib", type=int, default=32, help="MiB of a contribution")
    arguments = parser.parse_args()
    repeats, seconds = (2, 2.0) if arguments.quick else (arguments.repeats, 10.0)
    numel = arguments.mib << 19
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine(), "seed": SEED, "connections": NUM_CONNECTIONS}
    report |= {"contribution_bytes": 2 * numel, "repeats": repeats, "rows": []}
    for tls in (False, True):
        with Lagoon({"protocol": PROTOCOL}, tls=tls) as lagoon:
            bench = Bench(lagoon, numel)
            rows = bench.rows("tls" if tls else "clear", repeats)
            report["rows"] += [asdict(row) | {"gb_s": row.gb_s} for row in rows]
            bench.one.close()
    report["thin_link"] = on_a_thin_link(numel, max(2, repeats // 2))
    report["control_ms"] = {
        "tls" if tls else "clear": control_latency(tls, numel, seconds) for tls in (False, True)
    }
    if not arguments.quick:
        write_results("transfer", report["machine"]["processor"], report)


if __name__ == "__main__":
    main()
