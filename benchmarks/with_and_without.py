"""Tokens per second of M learners with Atoll, over M learners without, on the same machine.

M processes train the reference trainer's model, each for itself with one torch thread: without
Atoll, and as learners of one run with a real syncer and durable merges beside them, in turn (A B A
B), the same processes all along. Settings as in the floor of a real run: H = P = 24, int8 both
ways.

* unpaced: every learner trains as fast as it can, so on as many cores as learners the syncer's work
  is taken from training; that is its cost.
* paced: a step takes as long as keeps learners, ferries and syncer together below 60 % of all
  cores, as with accelerators that train while the cores have little to do. How long that is, a few
  seconds with Atoll beside find out. The wait comes before `learner.step`, and the next step begins
  after it, as in `atoll train`: what `learner.step` takes is not hidden in the wait.

Aim: 98 % of the tokens kept. Kept is the median over turns; `kept work` is the same of tokens per
second of processor time, with that of the syncer and all threads counted, which other programs on
the machine hardly change.

    python benchmarks/with_and_without.py [--quick] [--learners 2] [--turns 4] [--seconds 8]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch
from _common import machine, write_results
from _lagoon import Lagoon, busy_cores_s, process_cpu_s

import atoll
from atoll.access.invite import write_invite
from atoll.learner import Learner
from atoll.train.data import load_batch
from atoll.train.model import build_model
from atoll.train.settings import ModelSettings, TrainSettings
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer, train_step

SEED = 0
AIM = 0.98
BATCH_SIZE = 4
PACED_BUSY = 0.5
"""Share of all cores that paced learners, ferries and the syncer take together."""
MOST_BUSY = 0.6
TRIAL_S = 4.0
AHEAD_S = 3.0
"""From an order to the first second that counts."""
LEAVE_S = 3.0


@dataclass(frozen=True)
class Stretch:
    """Some seconds of all learners together."""

    tokens_per_s: float
    busy_cores: float
    cores: float
    """What learners and syncer took."""

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.tokens_per_s / self.cores


@dataclass(frozen=True)
class Row:
    """One way to train, over all turns."""

    how: str
    M: int
    min_step_s: float
    kept: list[float]
    kept_work: list[float]
    without_tokens_per_s: list[float]
    with_tokens_per_s: list[float]
    busy_without: float
    busy_with: float
    own_busy: float
    """Share of all cores that learners, ferries and syncer took together."""
    merges_per_s: float
    participation: float
    syncer_cores: float


# ------------------------------------------------------------ a learner process


class Trainer:
    """One learner's loop."""

    def __init__(self, name: str) -> None:
        model = ModelSettings.preset("small")
        self.settings = TrainSettings(model=model, batch_size=BATCH_SIZE)
        self.name, self.at = name, 0
        self.model = build_model(model, SEED)
        self.optimizer = build_optimizer(
            self.model, replace(self.settings.optimizer, learning_rate=1e-3)
        )
        self.data = load_sources(self.settings.data, model.context, model.vocab_size).train

    def step(self, learner: Learner | None, min_step_s: float) -> None:
        begin_s = time.monotonic()
        batch = load_batch(self.data, range(self.at, self.at + BATCH_SIZE))
        self.at = (self.at + BATCH_SIZE) % (len(self.data) - BATCH_SIZE)
        loss = train_step(self.model, self.optimizer, batch, self.settings.step)
        time.sleep(max(0.0, begin_s + min_step_s - time.monotonic()))
        if learner is not None:
            learner.step(tokens=self.settings.step_tokens, loss=loss)

    def run(self, order: dict[str, Any], learner: Learner | None) -> float:
        """Tokens per second between `from_s` and `until_s`, to part of a step."""
        from_s, until_s = order["from_s"], order["until_s"]
        tokens, before_s = 0.0, time.time()
        while before_s < until_s:
            self.step(learner, order["min_step_s"])
            now_s = time.time()
            inside_s = max(0.0, min(now_s, until_s) - max(before_s, from_s))
            tokens += self.settings.step_tokens * inside_s / (now_s - before_s)
            before_s = now_s
        return tokens / (until_s - from_s)


def learner_process(name: str) -> None:
    """Orders come as lines of JSON; each is answered with tokens per second."""
    logging.getLogger("atoll").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    trainer = Trainer(name)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if not order["invite"]:
            print(trainer.run(order, None), flush=True)
            continue
        with atoll.join(trainer.model, invite=order["invite"], name=name) as learner:
            print(trainer.run(order, learner), flush=True)


# ------------------------------------------------------------ the whole


class Fleet:
    """M learner processes."""

    def __init__(self, M: int) -> None:
        command = [sys.executable, __file__, "--as-learner"]
        pipe = subprocess.PIPE
        self.children = [
            subprocess.Popen([*command, f"l{i}"], stdin=pipe, stdout=pipe, text=True)
            for i in range(M)
        ]
        for child in self.children:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "ready"

    def train(self, lagoon: Lagoon, invite: str, seconds: float, min_step_s: float) -> Stretch:
        """All together, with Atoll where there is an invite."""
        from_s = time.time() + AHEAD_S
        order = {"invite": invite, "from_s": from_s, "until_s": from_s + seconds}
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write(json.dumps(order | {"min_step_s": min_step_s}) + "\n")
            child.stdin.flush()
        time.sleep(max(0.0, from_s - time.time()))
        busy_s, cpu_s = busy_cores_s(), self.cpu_s() + lagoon.cpu_s()
        time.sleep(seconds)
        busy_s, cpu_s = busy_cores_s() - busy_s, self.cpu_s() + lagoon.cpu_s() - cpu_s
        tokens_per_s = sum(
            float(child.stdout.readline()) for child in self.children if child.stdout
        )
        return Stretch(tokens_per_s, busy_s / seconds, cpu_s / seconds)

    def cpu_s(self) -> float:
        return sum(process_cpu_s(child.pid) for child in self.children)

    def close(self) -> None:
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(30.0)


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def settings_of(M: int) -> dict[str, Any]:
    protocol = {"M": M, "P": 24, "H": 24}
    return {"protocol": protocol, "uplink": "int8", "merge": {"downlink_codec": "int8"}}


def pace(fleet: Fleet, min_step_s: float) -> float:
    """The step with which everything together leaves the cores enough room."""
    with Lagoon(settings_of(len(fleet.children))) as lagoon:
        write_invite(lagoon.home / "run.invite", lagoon.invite)
        invite = str(lagoon.home / "run.invite")
        took = fleet.train(lagoon, invite, TRIAL_S, min_step_s).cores
        time.sleep(LEAVE_S)
    return round(min_step_s * max(1.0, took / (PACED_BUSY * num_cores())), 3)


def measure(fleet: Fleet, how: str, min_step_s: float, turns: int, seconds: float) -> Row:
    M = len(fleet.children)
    alone, together, cpu_s = [], [], 0.0
    with Lagoon(settings_of(M)) as lagoon:
        write_invite(lagoon.home / "run.invite", lagoon.invite)
        for _ in range(turns):
            alone.append(fleet.train(lagoon, "", seconds, min_step_s))
            begun = lagoon.cpu_s()
            invite = str(lagoon.home / "run.invite")
            together.append(fleet.train(lagoon, invite, seconds, min_step_s))
            cpu_s += (lagoon.cpu_s() - begun) / (seconds + AHEAD_S)
            time.sleep(LEAVE_S)  # they hand in their last contributions
        status = lagoon.status()
    shard, pairs = status["shards"]["0"], list(zip(alone, together, strict=True))
    row = Row(
        how,
        M,
        min_step_s,
        sorted(b.tokens_per_s / a.tokens_per_s for a, b in pairs),
        sorted(b.tokens_per_cpu_s / a.tokens_per_cpu_s for a, b in pairs),
        [each.tokens_per_s for each in alone],
        [each.tokens_per_s for each in together],
        median(each.busy_cores for each in alone),
        median(each.busy_cores for each in together),
        median(each.cores for each in together) / num_cores(),
        status["counts"]["merges"] / turns / (seconds + AHEAD_S),
        shard["participation"],
        cpu_s / turns,
    )
    show(row)
    return row


def show(row: Row) -> None:
    middle = median(row.kept)
    kept = f"kept {middle:6.1%} ({row.kept[0]:.1%} to {row.kept[-1]:.1%})"
    verdict = f"aim {AIM:.0%}: {'met' if middle >= AIM else 'missed'}"
    if row.how == "paced" and row.own_busy > MOST_BUSY:
        verdict += f", not paced: {row.own_busy:.0%} of the cores"
    work = f"kept work {median(row.kept_work):6.1%}"
    work += f" ({row.kept_work[0]:.1%} to {row.kept_work[-1]:.1%})"
    shares = f"{work}  participation {row.participation:6.1%}"
    print(f"{row.how:8} M {row.M}  {kept}  {shares}   {verdict}")
    print(
        f"{'':13} tokens/s {median(row.without_tokens_per_s):7.0f} without, "
        f"{median(row.with_tokens_per_s):7.0f} with  busy cores {row.busy_without:.2f}, "
        f"{row.busy_with:.2f} (syncer {row.syncer_cores:.2f})  own {row.own_busy:.0%} of all  "
        f"merges/s {row.merges_per_s:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one turn, nothing written")
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--as-learner", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_learner:
        learner_process(arguments.as_learner)
        return
    turns, seconds = (1, 5.0) if arguments.quick else (arguments.turns, arguments.seconds)
    fleet = Fleet(arguments.learners)
    report: dict[str, Any] = {"machine": machine(), "seed": SEED, "model": "small"}
    report |= {"batch_size": BATCH_SIZE, "aim": AIM, "seconds": seconds}
    with Lagoon({}) as lagoon:
        flat_out = fleet.train(lagoon, "", 4.0, 0.0).tokens_per_cpu_s * arguments.learners
    step_tokens = BATCH_SIZE * ModelSettings.preset("small").context
    step_s = step_tokens * arguments.learners / flat_out
    paced_s = pace(fleet, step_s * arguments.learners / (PACED_BUSY * num_cores()))
    rows = [
        measure(fleet, how, min_step_s, turns, seconds)
        for how, min_step_s in (("unpaced", 0.0), ("paced", paced_s))
    ]
    fleet.close()
    report["rows"] = [asdict(row) for row in rows]
    if not arguments.quick:
        write_results("with_and_without", report["machine"]["processor"], report)


if __name__ == "__main__":
    main()
