"""What training keeps of its speed beside a ferry that fills a link of 1 Gbit/s.

The reference trainer, a decoder of 25M parameters on the CPU with one torch thread, trains alone
and as the only learner of a run, turn by turn (A B A B) in one process: same model, same data.
H = P = 4 and fp32 both ways with steps of 16 tokens, so 25 MB are cut, sent, merged, fetched and
installed again with nearly every step: more than the link carries, hundreds of times what a real
run makes. `Mbit/s` are the bytes of contributions and versions alone.

* busy: it trains as fast as it can, on one core; on two cores there is then no room for the far
  side, which shows in `kept`.
* paced: a step takes at least twice its processor time, as with an accelerator that trains while
  the cores have little to do. The wait comes before `learner.step`, and the next step begins after
  it, as in `atoll train`: what `learner.step` takes is not hidden in the wait.

Through a link of 1 Gbit/s each way (`atoll.chaos.proxy`) and without one, clear and under TLS. Aims
at 1 Gbit/s: 95 % kept in the clear, 93 % under TLS, at 900 Mbit/s or more; without a limit it is
reported only.

The set-up is harder than a real one in one respect: the syncer with its merges and the link are on
the same cores as the trainer. `busy` cores say how full the machine was, `syncer` how much of it
the far side took, `ferry` what this process took besides the training thread. Kept is the median
over turns of speed beside over speed alone just before; `kept work` is the same of the training
thread's processor time alone, which other programs on the machine and waiting for cores or the
interpreter lock do not change.

    python benchmarks/training_kept.py [--quick] [--turns 3] [--seconds 4]
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from _common import machine, write_results
from _lagoon import Lagoon, busy_cores_s

import atoll
from atoll.learner import Learner
from atoll.train.data import load_batch
from atoll.train.model import Decoder, build_model
from atoll.train.settings import DataSettings, ModelSettings, OptimizerSettings, StepSettings
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer, train_step

SEED = 0
MODEL = ModelSettings(dim=512, num_layers=8, num_heads=8, context=16)
BATCH_SIZE = 1
PROTOCOL = {"M": 1, "P": 4, "H": 4, "max_staleness": 8, "first_round_s": 60.0}
SETTINGS = {"protocol": PROTOCOL, "uplink": "fp32", "merge": {"downlink_codec": "fp32"}}
LINK_MBIT_S = 1000.0
WARM_STEPS = 4
AIMS = {("1 Gbit/s", "clear"): 0.95, ("1 Gbit/s", "tls"): 0.93}
FULL_MBIT_S = 900.0
PACED_BUSY = 0.5
"""Share of a core that a paced trainer takes."""


@dataclass(frozen=True)
class Stretch:
    """Some seconds of training."""

    steps_per_s: float
    busy_cores: float
    own_cores: float
    trainer_cores: float

    @property
    def step_cpu_s(self) -> float:
        return self.trainer_cores / self.steps_per_s


@dataclass(frozen=True)
class Row:
    """One kind of trainer and link, over all turns."""

    how: str
    link: str
    security: str
    kept: list[float]
    kept_work: list[float]
    alone_steps_per_s: float
    up_mbit_s: float
    down_mbit_s: float
    merges_per_step: float
    busy_cores: float
    syncer_cores: float
    ferry_cores: float


class Trainer:
    """The reference trainer's step, for as long as asked."""

    def __init__(self) -> None:
        self.model: Decoder = build_model(MODEL, SEED)
        self.optimizer = build_optimizer(self.model, OptimizerSettings(learning_rate=1e-4))
        sources = load_sources(DataSettings(), MODEL.context, MODEL.vocab_size)
        self.data, self.settings, self.at = sources.train, StepSettings(), 0
        self.min_step_s = 0.0

    def cpu_of_a_step_s(self) -> float:
        for _ in range(WARM_STEPS):
            self.step(None)
        begun_s = time.thread_time()
        for _ in range(WARM_STEPS):
            self.step(None)
        return (time.thread_time() - begun_s) / WARM_STEPS

    def step(self, learner: Learner | None) -> None:
        begin_s = time.monotonic()
        batch = load_batch(self.data, range(self.at, self.at + BATCH_SIZE))
        self.at = (self.at + BATCH_SIZE) % (len(self.data) - BATCH_SIZE)
        loss = train_step(self.model, self.optimizer, batch, self.settings)
        time.sleep(max(0.0, begin_s + self.min_step_s - time.monotonic()))
        if learner is not None:
            learner.step(tokens=BATCH_SIZE * MODEL.context, loss=loss)

    def run(self, seconds: float, learner: Learner | None = None) -> Stretch:
        for _ in range(WARM_STEPS):
            self.step(learner)
        begun = (time.monotonic(), busy_cores_s(), time.process_time(), time.thread_time())
        steps = 0
        while time.monotonic() < begun[0] + seconds:
            self.step(learner)
            steps += 1
        ended = (time.monotonic(), busy_cores_s(), time.process_time(), time.thread_time())
        took_s, *used = (end - begin for begin, end in zip(begun, ended, strict=True))
        return Stretch(steps / took_s, *(each / took_s for each in used))


@dataclass
class Sums:
    """What the syncer counted while training went on beside the ferry."""

    seconds: float = 0.0
    steps: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    merges: int = 0
    cpu_s: float = 0.0


def beside(trainer: Trainer, lagoon: Lagoon, seconds: float, sums: Sums) -> Stretch:
    """Join, train, leave; only the training between is counted."""
    with atoll.join(trainer.model, invite=lagoon.invite, name="a") as learner:
        for _ in range(WARM_STEPS):
            trainer.step(learner)
        before, cpu_s, begin_s = lagoon.status()["counts"], lagoon.cpu_s(), time.monotonic()
        stretch = trainer.run(seconds, learner)
        sums.seconds += time.monotonic() - begin_s
        sums.steps += stretch.steps_per_s * seconds + WARM_STEPS
        after = lagoon.status()["counts"]
        sums.cpu_s += lagoon.cpu_s() - cpu_s
        for name in ("bytes_in", "bytes_out", "merges"):
            setattr(sums, name, getattr(sums, name) + after[name] - before[name])
    return stretch


def measure(trainer: Trainer, case: tuple[str, str, str], turns: int, seconds: float) -> Row:
    how, link, security = case
    trainer.min_step_s = 0.0
    if how == "paced":
        trainer.min_step_s = trainer.cpu_of_a_step_s() / PACED_BUSY
    mbit_s = LINK_MBIT_S if link == "1 Gbit/s" else None
    kept, kept_work, alone, with_ferry, sums = [], [], [], [], Sums()
    with Lagoon(SETTINGS, tls=security == "tls", mbit_s=mbit_s) as lagoon:
        for _ in range(turns):
            alone.append(trainer.run(seconds))
            with_ferry.append(beside(trainer, lagoon, seconds, sums))
            kept.append(with_ferry[-1].steps_per_s / alone[-1].steps_per_s)
            kept_work.append(alone[-1].step_cpu_s / with_ferry[-1].step_cpu_s)
    row = Row(
        how,
        link,
        security,
        sorted(kept),
        sorted(kept_work),
        median(each.steps_per_s for each in alone),
        sums.bytes_in * 8e-6 / sums.seconds,
        sums.bytes_out * 8e-6 / sums.seconds,
        sums.merges / sums.steps,
        median(each.busy_cores for each in with_ferry),
        sums.cpu_s / sums.seconds,
        median(each.own_cores - each.trainer_cores for each in with_ferry),
    )
    show(row)
    return row


def show(row: Row) -> None:
    aim = AIMS.get((row.link, row.security))
    middle = median(row.kept)
    is_full = row.up_mbit_s >= FULL_MBIT_S
    verdict = ""
    if aim is not None:
        verdict = f"aim {aim:.0%}: {'met' if middle >= aim else 'missed'}"
        verdict += "" if is_full else f", and the link was not full ({FULL_MBIT_S:.0f} Mbit/s up)"
    kept = f"kept {middle:6.1%} ({row.kept[0]:.1%} to {row.kept[-1]:.1%})"
    case = f"{row.how:5} {row.link:9} {row.security:5}"
    work = f"kept work {median(row.kept_work):6.1%}"
    work += f" ({row.kept_work[0]:.1%} to {row.kept_work[-1]:.1%})"
    print(f"{case} {kept}  {work}   {verdict}")
    print(
        f"{'':21} alone {row.alone_steps_per_s:.2f} steps/s, merges per step "
        f"{row.merges_per_step:.2f}, Mbit/s up {row.up_mbit_s:.0f} down {row.down_mbit_s:.0f}, "
        f"cores: busy {row.busy_cores:.2f} syncer {row.syncer_cores:.2f} "
        f"ferry {row.ferry_cores:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one turn, nothing written")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    turns, seconds = (1, 3.0) if arguments.quick else (arguments.turns, arguments.seconds)
    logging.getLogger("atoll").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    trainer = Trainer()
    report: dict[str, Any] = {"machine": machine(), "seed": SEED, "torch": torch.__version__}
    report |= {"parameters": trainer.model.num_params, "settings": SETTINGS}
    report |= {"step_tokens": BATCH_SIZE * MODEL.context, "cores_allowed": len(cores())}
    print(f"{trainer.model.num_params:,} parameters, {len(cores())} cores")
    report["rows"] = [
        asdict(measure(trainer, (how, link, security), turns, seconds))
        for how, link in (("busy", "1 Gbit/s"), ("paced", "1 Gbit/s"), ("busy", "flat out"))
        for security in ("clear", "tls")
    ]
    if not arguments.quick:
        write_results("training_kept", report["machine"]["processor"], report)


def cores() -> set[int]:
    return os.sched_getaffinity(0)


if __name__ == "__main__":
    main()
