"""The toy of section 3 of the design with the real cores: what called rounds are worth.

Eight learners, P = H = 24, K = 1, steps of one second (5 % jitter), half a second up and half a
second down for bulk, 20 ms for control, all in virtual time. For each mix of paces, receipt rule
and tau:

    participation  learners in a merge / learners live, late cuts of earlier rounds included
    on time        the same, only cuts made for this very round
    effective H    seconds, that is steps of the fastest learners, between two calls of a fragment
    slow rounds    rounds that took longer than H from call to merge
    solo, thin     merges of one learner alone, and merges below the token share
    work merged    merged / (merged + dropped) tokens, as the learners' ledgers have them

The first rounds are left out. Beside them stand the figures of the design's own toy. A value is
the mean over seeds, the spread in brackets is from the least to the greatest seed.

    python benchmarks/toy_timeline.py [--rounds 12] [--seeds 3]
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any, Literal

from _common import machine, write_results

from atoll.core import effects as fx
from atoll.core.coordinator import RunSettings
from atoll.core.settings import ProtocolSettings
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

M, P, H = 8, 24, 24
STEP_S = 1.0
LINK = Link(delay_s=0.02, bulk_s=0.48)
MIXES: dict[str, tuple[float, ...]] = {
    "alike": (1.0,) * 8,
    "half 18 % slower": (1.0,) * 4 + (1.18,) * 4,
    "one ten times slower": (1.0,) * 7 + (10.0,),
}
PARTICIPATION = {
    ("alike", 2): "75 %",
    ("alike", 3): "87 %",
    ("alike", 4): "94 %",
    ("half 18 % slower", 2): "75 %",
    ("half 18 % slower", 3): "87 %",
    ("half 18 % slower", 4): "94 %",
    ("one ten times slower", 2): "69 %",
    ("one ten times slower", 3): "81 %",
    ("one ten times slower", 4): "86 %",
}
WORK = {"overwrite": "87-91 %", "keep": "99.5 %"}
Tau = int | Literal["auto"]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    mix: str
    receipt: str
    tau: Tau
    K: int | Literal["all"] = 1

    @property
    def design(self) -> dict[str, str]:
        """What the design's toy found for it."""
        if self.K == "all":
            return {"participation": "", "effective_H": "237", "work_merged": ""}
        return {
            "participation": PARTICIPATION.get((self.mix, self.tau), ""),
            "effective_H": "22.7-23",
            "work_merged": WORK[self.receipt] if self.mix == "alike" else "",
        }


@dataclass
class Seen:
    """What one run showed after its first rounds."""

    merges: list[fx.Merge] = field(default_factory=list)
    called_at_s: dict[int, list[float]] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    taus: list[int] = field(default_factory=list)
    work: tuple[int, int] = (0, 0)

    def figures(self) -> dict[str, float]:
        gaps = [
            later - sooner
            for times in self.called_at_s.values()
            for sooner, later in itertools.pairwise(times)
        ]
        num = len(self.merges)
        on_time = [sum(p.cut.call == m.round for p in m.parts) / M for m in self.merges]
        merged, dropped = self.work
        return {
            "participation": mean(len(m.parts) / M for m in self.merges),
            "on_time": mean(on_time),
            "effective_H": mean(gaps) / STEP_S,
            "solo": sum(len(m.parts) == 1 for m in self.merges) / num,
            "slow_rounds": sum(took_s > H * STEP_S for took_s in self.took_s) / num,
            "thin": sum(m.thin for m in self.merges) / num,
            "work_merged": merged / (merged + dropped),
            "tau": mean(self.taus),
        }


def main() -> None:
    arguments = parse_arguments()
    print(HEAD)
    rows = []
    for case in cases():
        runs = [run(case, arguments.rounds, seed) for seed in range(arguments.seeds)]
        rows.append({"case": asdict(case), "design": case.design, "seeds": runs})
        show(case, runs)
    report = {
        "machine": machine(),
        "protocol": {"M": M, "P": P, "H": H, "step_s": STEP_S, "link": asdict(LINK)},
        "rounds": arguments.rounds,
        "rows": rows,
    }
    write_results("toy_timeline", "virtual-time", report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each fragment")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def cases() -> list[Case]:
    taus: tuple[Tau, ...] = (2, 3, 4, "auto")
    found = [
        Case(mix, receipt, tau)
        for mix in MIXES
        for receipt in ("keep", "overwrite")
        for tau in taus
    ]
    return [*found, Case("one ten times slower", "keep", "auto", "all")]


def run(case: Case, rounds: int, seed: int) -> dict[str, float]:
    """One run in virtual time; its figures after the first rounds."""
    settings = ProtocolSettings(M=M, P=P, H=H, K=case.K, tau=case.tau, receipt=case.receipt)  # type: ignore[arg-type]
    dice = random.Random(seed)
    islands = [
        Island(f"island-{number}", pace * STEP_S, 0.05, LINK, joins_at_s=dice.random() * STEP_S)
        for number, pace in enumerate(MIXES[case.mix])
    ]
    world = World(
        settings, RunSettings("toy", "layout", 10**12), islands, Conditions(seed, check=False)
    )
    slowest = max(MIXES[case.mix]) if case.K == "all" else 1.0
    world.run_for(4 * H * STEP_S * slowest)
    seen, before = Seen(), work(world)

    def record(_: str, now_s: float, __: object, effects: Sequence[Any]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Send) and effect.reason.code == "due":
                seen.called_at_s.setdefault(effect.message.fragment, []).append(now_s)  # type: ignore[attr-defined]
            if isinstance(effect, fx.Merge):
                seen.merges.append(effect)
                seen.taus.append(world.learners["island-0"].core.state.tau)
                if effect.fragment in seen.called_at_s:
                    seen.took_s.append(now_s - seen.called_at_s[effect.fragment][-1])

    world.recorders.append(record)
    world.run_for(rounds * H * STEP_S * slowest)
    after = work(world)
    seen.work = (after[0] - before[0], after[1] - before[1])
    return seen.figures()


def work(world: World) -> tuple[int, int]:
    """Tokens merged and tokens dropped so far, over all learners and fragments."""
    merged, dropped = 0, 0
    for node in world.learners.values():
        for holding in node.core.state.holdings:
            merged += holding.ledger.merged
            dropped += holding.ledger.dropped_tokens
    return merged, dropped


HEAD = (
    f"{'paces':21} {'K':>3} {'receipt':9} {'tau':>4} | {'participation':>24} {'design':>6} | "
    f"{'on time':>7} | {'effective H':>19} {'design':>7} | {'solo':>5} {'thin':>5} {'slow':>5} | "
    f"{'work merged':>24} {'design':>7}"
)


def show(case: Case, runs: Sequence[dict[str, float]]) -> None:
    design = case.design
    print(
        f"{case.mix:21} {case.K:>3} {case.receipt:9} {case.tau:>4} | "
        f"{share('participation', runs):>24} {design['participation']:>6} | "
        f"{mean(r['on_time'] for r in runs):7.1%} | "
        f"{steps(runs):>19} {design['effective_H']:>7} | "
        f"{mean(r['solo'] for r in runs):5.1%} {mean(r['thin'] for r in runs):5.1%} "
        f"{mean(r['slow_rounds'] for r in runs):5.1%} | "
        f"{share('work_merged', runs):>24} {design['work_merged']:>7}"
        + (f"  tau {mean(r['tau'] for r in runs):.1f}" if case.tau == "auto" else ""),
        flush=True,
    )


def share(what: str, runs: Sequence[dict[str, float]]) -> str:
    values = [each[what] for each in runs]
    return f"{mean(values):.1%} ({min(values):.1%}-{max(values):.1%})"


def steps(runs: Sequence[dict[str, float]]) -> str:
    values = [each["effective_H"] for each in runs]
    return f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
