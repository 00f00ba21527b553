"""When are exchanges worth most? Synchronous DiLoCo under schedules of H, and what they cost.

    python benchmarks/quality/schedules.py

M = 4, mean, plain outer SGD, one seed, the configuration of `trials.base`. About six minutes of one
core. Prints a line for each schedule; decision 0017 has them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
from sweeps import SWEEP_SEEDS
from trials import SGD, base, decoupled

from atoll.compare.baselines import Together, WholeRounds
from atoll.compare.trial import Trial
from atoll.simulator.training import Look

SCHEDULES: dict[str, Callable[[int], int]] = {
    "H = 24": lambda step: 24,
    "H = 24 until step 750, then 6": lambda step: 24 if step < 750 else 6,
    "H grows from 3 to 24 until step 420": lambda step: min(24, 3 + step // 20),
    "H = 6 until step 250, then 24": lambda step: 6 if step < 250 else 24,
    "H = 6": lambda step: 6,
}
"""By step, how many steps until the next exchange."""


def main() -> int:
    torch.set_num_threads(1)
    trial = Trial("diloco", decoupled(base(2.8e-3, 4), "mean", SGD).training)
    trial = trial.with_seed(SWEEP_SEEDS[0])
    sources = trial.load()
    for name, steps_after in SCHEDULES.items():
        run = Together(trial.training, sources, 4)
        losses = [look.loss for look in _apart(run, steps_after)]
        print(f"{name}: {run.exchanges} exchanges, loss {losses[-1]:.4f}", flush=True)
    return 0


def _apart(run: Together, steps_after: Callable[[int], int]) -> Iterator[Look]:
    rounds = WholeRounds(run)
    step, num_steps = 0, run.settings.train.num_steps
    while step < num_steps:
        count = min(steps_after(step), num_steps - step)
        for _ in range(count):
            run.step()
        step += count
        rounds.merge()
        run.exchange(rounds.up_bytes, rounds.down_bytes)
        yield from run.looks_due(run.models[0])


if __name__ == "__main__":
    sys.exit(main())
