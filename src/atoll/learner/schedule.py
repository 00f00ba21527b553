"""Schedules by the progress of the run, not by this process's steps.

A learner that comes back finds the schedule where the run is. `lr_lambda` takes a function of
progress, 0 to 1, and gives what `torch.optim.lr_scheduler.LambdaLR` wants.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol


class HasProgress(Protocol):
    """What a schedule needs of a learner."""

    @property
    def progress(self) -> float:
        """Share of the run's budget that is trained."""

    @property
    def warmup(self) -> float:
        """Factor for the learning rate in the first steps on fresh inner state."""


_current: list[weakref.ReferenceType[HasProgress]] = []


def set_current(learner: HasProgress) -> None:
    """Schedules of this process go by this learner from now on."""
    _current[:] = [weakref.ref(learner)]


def progress() -> float:
    """Of the learner that joined last in this process; 0 before any did."""
    learner = _current[0]() if _current else None
    return learner.progress if learner is not None else 0.0


def warmup() -> float:
    """Of the learner that joined last in this process; 1 before any did."""
    learner = _current[0]() if _current else None
    return learner.warmup if learner is not None else 1.0


def lr_lambda(fn: Callable[[float], float]) -> Callable[[int], float]:
    """For `LambdaLR(optimizer, atoll.lr_lambda(fn))`: the factor is `fn(progress)`.

    In the first steps of a learner that had to begin with fresh inner optimizer state it is less
    (`Learner.warmup`). The count of steps that the scheduler hands over is not looked at.
    """

    def factor(_num_steps: int) -> float:
        return fn(progress()) * warmup()

    return factor
