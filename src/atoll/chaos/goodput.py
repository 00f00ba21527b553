"""Goodput: learner time in steps whose work was merged, over the time that was asked for.

A merged token stands for the step that it was part of, and a step for the time that a step of this
run takes as a rule (the median): so the time for which a frozen process sat in a step counts as
lost, as down time and dropped work do.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.chaos.work import Work


@dataclass(frozen=True, slots=True)
class Pace:
    """What a step is, and how many learners were asked for."""

    learners: int
    step_tokens: int
    step_s: float


def goodput(work: Work, sizes: Sequence[int], pace: Pace, window: tuple[float, float]) -> float:
    """Over a window of time."""
    begin_s, end_s = window
    if end_s <= begin_s:
        return 0.0
    steps = work.merged_in(sizes, begin_s, end_s) / pace.step_tokens
    return steps * pace.step_s / (pace.learners * (end_s - begin_s))


def time_lost_s(
    work: Work, sizes: Sequence[int], pace: Pace, learner: str, window: tuple[float, float]
) -> float:
    """Time of one learner in a window that did not go into merged steps."""
    begin_s, end_s = window
    steps = work.merged_in(sizes, begin_s, end_s, learner) / pace.step_tokens
    return max(0.0, end_s - begin_s - steps * pace.step_s)


def median_step_s(metrics: Iterable[Path]) -> float:
    """How long a step takes as a rule, over all learners; 0 where nobody made one."""
    times = []
    for path in metrics:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a learner that was killed while it wrote
            if "step_s" in record:
                times.append(float(record["step_s"]))
    return statistics.median(times) if times else 0.0
