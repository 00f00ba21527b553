"""Doing the trials that are not done yet, one after the other, each kept as soon as it is over."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.simulator.training import Look, TrainingResult, TrainingStalled
from atoll.train.data import Sources
from atoll.train.settings import DataSettings

Report = Callable[[Trial, Look], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A trial and its result; `fresh` when it was done now."""

    trial: Trial
    result: TrainingResult
    took_s: float
    fresh: bool


class Workbench:
    """Does trials with one thread of torch, and keeps the data between them."""

    def __init__(self, folder: ResultFolder, report: Report = lambda trial, look: None):
        self.folder = folder
        self.report = report
        self._sources: dict[tuple[DataSettings, int, int], Sources] = {}

    def do(self, trials: Sequence[Trial]) -> Iterator[Done]:
        """Every trial once, in order; those at which another process works are left to it, and
        one that stands still is told and has no result.
        """
        torch.set_num_threads(1)
        for trial in trials:
            kept = self.folder.find(trial)
            if kept is not None:
                yield Done(trial, kept.result, kept.took_s, fresh=False)
            elif self.folder.claim(trial):
                try:
                    yield self._one(trial)
                except TrainingStalled as error:
                    print(f"{trial.method}, seed {trial.seed}: {error}", file=sys.stderr)
                finally:
                    self.folder.release(trial)

    def _one(self, trial: Trial) -> Done:
        began_s = time.monotonic()
        for each in trial.run(self._sources_of(trial)):
            if isinstance(each, TrainingResult):
                took_s = time.monotonic() - began_s
                self.folder.save(trial, each, took_s, machine())
                return Done(trial, each, took_s, fresh=True)
            self.report(trial, each)
        raise AssertionError("a run ends with its result")

    def _sources_of(self, trial: Trial) -> Sources:
        train = trial.training.train
        key = (train.data, train.model.context, train.model.vocab_size)
        if key not in self._sources:
            self._sources[key] = trial.load()
        return self._sources[key]


def machine() -> str:
    """What the numbers and times were made with."""
    return f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
