"""What `Learner.step()` costs the training thread, in a real run with a real syncer process.

* Nothing is due: microseconds of a call, between steps of about a millisecond of tensor work,
  beside calls of an empty method timed in the same way (what the clock and the machine add).
  Aim: a median of at most 20 us.
* A cut or an install of 32 MiB is due: as multiples of `memcpy`, torch's copy of as many bytes
  between two buffers, timed before each such step. Aims: 1.5 for a cut, 3 for an install. The first
  two of each are reported apart: they touch memory for the first time.
* The longest call while the syncer is stopped (SIGSTOP), killed (SIGKILL) and behind a link that
  swallows everything, in turn with undisturbed seconds. Aim: no worse than undisturbed.

The trainer has one torch thread; syncer and link are processes of their own on the same cores.

    python benchmarks/step_cost.py [--quick]
"""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch
from _common import machine, write_results
from _lagoon import Lagoon
from torch import nn

import atoll
from atoll.ferry.island import CarriedOut, Island
from atoll.ferry.mailbox import Job
from atoll.learner import Learner

SEED = 0
QUIET = {"M": 1, "P": 4, "H": 1 << 40}
NOTHING_AIM_US, CUT_AIM, INSTALL_AIM = 20.0, 1.5, 3.0
BIG_NUMEL = 8 << 20
SMALL_NUMEL = 1 << 20
FIRST = 2


class Work:
    """A model without an architecture, and steps that change all of it."""

    def __init__(self, num_fragments: int, fragment_numel: int, work_size: int) -> None:
        rows = [torch.randn(fragment_numel // 1024, 1024) for _ in range(num_fragments)]
        self.model = nn.ParameterList([nn.Parameter(each) for each in rows])
        self._left, self._right = torch.randn(work_size, work_size), torch.randn(work_size)

    @torch.no_grad()
    def compute(self) -> None:
        """About a millisecond, most of it outside of the interpreter lock."""
        self._left @ self._right
        self._left.sin_()

    @torch.no_grad()
    def change(self) -> None:
        """What an optimizer does: every parameter is read and written."""
        for each in self.model:
            each.add_(1e-6)


class Empty:
    """Takes the place of a learner."""

    def step(self, *, tokens: int) -> bool:
        return tokens > 0


class Boundaries:
    """Sees what each boundary carried out, from outside."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def watch(self) -> None:
        carry_out = Island.carry_out

        def watched(island: Island, jobs: Sequence[Job]) -> CarriedOut:
            done = carry_out(island, jobs)
            self.seen.append((len(done.cuts), len(done.installs)))
            return done

        Island.carry_out = watched  # type: ignore[method-assign]

    def last(self) -> tuple[int, int]:
        """Cuts and installs since the last look."""
        seen, self.seen = self.seen, []
        return sum(cuts for cuts, _ in seen), sum(installs for _, installs in seen)


def call_s(learner: Learner | Empty) -> float:
    begin_s = time.perf_counter()
    learner.step(tokens=1)
    return time.perf_counter() - begin_s


def figures(times_s: Sequence[float], unit: float = 1e6) -> dict[str, float]:
    p99 = quantiles(times_s, n=100)[98] if len(times_s) > 1 else times_s[0]
    plain = {"min": min(times_s), "median": median(times_s), "p99": p99, "max": max(times_s)}
    return {name: round(unit * value, 3) for name, value in plain.items()} | {"count": len(times_s)}


def show(what: str, found: dict[str, float], unit: str, verdict: str = "") -> None:
    columns = "  ".join(f"{name} {found[name]:9.2f}" for name in ("min", "median", "p99", "max"))
    print(f"{what:34} {columns} {unit:6} n {found['count']:6}  {verdict}", flush=True)


def verdict(met: bool, aim: str) -> str:
    return f"aim {aim}: {'met' if met else 'missed'}"


# ------------------------------------------------------------ nothing is due


def nothing_due(num_calls: int) -> dict[str, Any]:
    """Calls of a learner and of an empty method, turn by turn, in blocks of 500."""
    work = Work(4, SMALL_NUMEL, 512)
    times: dict[str, list[float]] = {"step()": [], "an empty method": []}
    with Lagoon({"protocol": QUIET}) as lagoon:
        learner = atoll.join(work.model, invite=lagoon.invite, name="a")
        for _ in range(num_calls // 500):
            for what, one in (("step()", learner), ("an empty method", Empty())):
                for _ in range(500):
                    work.compute()
                    times[what].append(call_s(one))
        learner.close(5.0)
    found = {what: figures(each) for what, each in times.items()}
    for what, each in found.items():
        met = each["median"] <= NOTHING_AIM_US
        text = verdict(met, "median 20 us") if what == "step()" else ""
        show(f"nothing due, {what}", each, "us", text)
    return found


# ------------------------------------------------------------ a cut, an install


def with_tensors(num_each: int) -> dict[str, Any]:
    """Steps in which something was carried out, over a copy of the same bytes right after."""
    boundaries = Boundaries()
    boundaries.watch()
    work = Work(2, BIG_NUMEL, 256)
    source, target = torch.randn(BIG_NUMEL), torch.zeros(BIG_NUMEL)
    ratios: dict[str, list[float]] = {"cut": [], "install": []}
    times: dict[str, list[float]] = {"cut": [], "install": [], "memcpy": []}
    protocol = {"M": 1, "P": 2, "H": 48}
    with Lagoon({"protocol": protocol}) as lagoon:
        learner = atoll.join(work.model, invite=lagoon.invite, name="a")
        boundaries.last()
        while min(len(each) for each in ratios.values()) < num_each + FIRST:
            work.change()
            time.sleep(0.02)  # the part of a step that is not ours
            copied_s = copy_s(source, target)
            took_s = call_s(learner)
            did = boundaries.last()
            what = {(1, 0): "cut", (0, 1): "install"}.get(did)
            if what is not None:
                ratios[what].append(took_s / copied_s)
                times[what].append(took_s)
                times["memcpy"].append(copied_s)
        learner.close(5.0)
    found: dict[str, Any] = {"bytes": 4 * BIG_NUMEL}
    for what, aim in (("cut", CUT_AIM), ("install", INSTALL_AIM)):
        first, rest = ratios[what][:FIRST], ratios[what][FIRST:]
        found[what] = {"ratio": figures(rest, 1), "first": [round(each, 2) for each in first]}
        found[what]["ms"] = figures(times[what][FIRST:], 1e3)
        text = verdict(median(rest) <= aim, f"median {aim:g}")
        show(f"{what}, 32 MiB, over memcpy", figures(rest, 1), "times", text)
        print(f"{'':34} the first {FIRST}: {', '.join(f'{each:.1f}' for each in first)} times")
    found["memcpy_ms"] = figures(times["memcpy"], 1e3)
    show("memcpy", found["memcpy_ms"], "ms")
    return found


def copy_s(source: torch.Tensor, target: torch.Tensor) -> float:
    begin_s = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - begin_s


# ------------------------------------------------------------ a syncer in trouble


def in_trouble(turns: int, seconds: float) -> dict[str, Any]:
    """Every kind of trouble, with as many seconds undisturbed before each."""
    work = Work(4, SMALL_NUMEL, 256)
    times: dict[str, list[float]] = {}
    protocol = {"M": 1, "P": 4, "H": 16, "beat_s": 0.5, "silence_s": 2.0, "retry_s": 0.2}
    with Lagoon({"protocol": protocol}, mbit_s=0.0) as lagoon:
        troubles: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "stopped": (
                lambda: lagoon.signal(signal.SIGSTOP),
                lambda: lagoon.signal(signal.SIGCONT),
            ),
            "link cut": (lambda: lagoon.link("cut"), lambda: lagoon.link("mend")),
            "killed": (lambda: lagoon.signal(signal.SIGKILL), lagoon.start),
        }
        learner = atoll.join(work.model, invite=lagoon.invite, name="a")
        train(learner, work, 2.0)
        for _ in range(turns):
            for what, (begin, end) in troubles.items():
                times.setdefault(f"before {what}", []).extend(train(learner, work, seconds))
                begin()
                times.setdefault(what, []).extend(train(learner, work, seconds))
                end()
                train(learner, work, 3.0)  # it comes back
        learner.close(5.0)
    return report_trouble(times)


def train(learner: Learner, work: Work, seconds: float) -> list[float]:
    times, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        work.change()
        work.compute()
        times.append(call_s(learner))
    return times


def report_trouble(times: dict[str, list[float]]) -> dict[str, Any]:
    found = {what: figures(each, 1e3) for what, each in times.items()}
    quiet_max = max(each["max"] for what, each in found.items() if what.startswith("before"))
    for what, each in found.items():
        met = each["max"] <= quiet_max
        text = "" if what.startswith("before") else verdict(met, f"max {quiet_max:.2f} ms")
        show(f"longest call, {what}", each, "ms", text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, nothing written")
    quick = parser.parse_args().quick
    logging.getLogger("atoll").setLevel(logging.ERROR)  # what is dropped in trouble is no news here
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    report: dict[str, Any] = {"machine": machine(), "seed": SEED}
    report["nothing_due_us"] = nothing_due(2000 if quick else 20_000)
    report["trouble_ms"] = in_trouble(1 if quick else 4, 2.0 if quick else 4.0)
    report["with_tensors"] = with_tensors(5 if quick else 40)
    if not quick:
        write_results("step_cost", report["machine"]["processor"], report)


if __name__ == "__main__":
    main()
