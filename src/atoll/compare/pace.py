"""Virtual time of the methods in which everybody waits for everybody.

Steps and interruptions are drawn as for learners in the simulator; an interruption of one learner
then stands in everybody's way. Bytes that all learners exchange pass at the rate of their links.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from math import fsum

from atoll.simulator.training import TrainingSettings
from atoll.simulator.training_faults import dice_of


class Pace:
    """How long the learners' steps take, and the time that has passed."""

    def __init__(self, settings: TrainingSettings):
        self.settings = settings
        surroundings, num_learners = settings.surroundings, settings.protocol.M
        self.now_s = 0.0
        self.interruptions = 0
        self._dice = random.Random(settings.train.seed)
        self._step_s = [surroundings.step_s_of(m, num_learners) for m in range(num_learners)]
        self._pauses = [
            surroundings.faults.pauses(dice_of(settings.train.seed, f"island-{m}"), float(10**6))
            for m in range(num_learners)
        ]

    def steps(self, count: int) -> None:
        """All do so many steps, then wait for the slowest."""
        self.now_s += max(self._one_s(m, count) for m in range(len(self._step_s)))

    def exchange(self, num_bytes: float, num_params: int) -> None:
        """Each learner's link carries so many bytes one way, while everybody waits."""
        surroundings = self.settings.surroundings
        self.now_s += num_bytes / surroundings.bytes_s(num_params) + surroundings.delay_s

    def _one_s(self, learner: int, count: int) -> float:
        jitter = self.settings.surroundings.step_jitter
        draws = (1 + jitter * (2 * self._dice.random() - 1) for _ in range(count))
        took_s = self._step_s[learner] * fsum(draws)
        pauses = self._pauses[learner]
        hit = pauses[: bisect_left(pauses, (self.now_s + took_s, 0.0))]
        del pauses[: len(hit)]
        self.interruptions += len(hit)
        return took_s + fsum(down_s for _, down_s in hit)
