"""A whole run from start to report: started, watched, disturbed on request, measured, stopped.

What is shown meanwhile is the caller's business: `Session.run` yields how it stands. The held-out
loss is that of the *published* parameters, read by a follower that cannot change anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from atoll.access.invite import read_invite
from atoll.ferry.errors import FerryError
from atoll.ferry.follower import follow_run
from atoll.fragments.model import tensors_of
from atoll.launch.folder import RunFolder
from atoll.launch.local import LocalRun, Progress
from atoll.launch.report import Fault, Figures, Report, build_report, time_to_heal_s
from atoll.runfile.settings import RunFile
from atoll.train.data import Sources
from atoll.train.model import Decoder, build_model
from atoll.train.sources import load_sources
from atoll.train.step import evaluate

POLL_S = 0.25
GOODBYE_S = 60.0


@dataclass(slots=True)
class Killed:
    """A learner that was killed on purpose, and which life that was."""

    learner: str
    at_s: float
    incarnation: int


@dataclass(slots=True)
class Session:
    """One run on this machine. `disturb` is called at every look, and may kill."""

    folder: RunFolder
    run_file: RunFile
    new: bool
    disturb: Callable[[Session], None] = lambda _: None
    killed: list[Killed] = field(default_factory=list)
    loss_first: float = float("nan")
    loss_last: float = float("nan")
    seconds: float = 0.0
    last_status: dict[str, Any] = field(default_factory=dict)
    local: LocalRun = field(init=False)
    _model: Decoder = field(init=False)
    _sources: Sources = field(init=False)

    def __post_init__(self) -> None:
        self.local = LocalRun(self.folder, self.run_file, self.new)

    def run(self) -> Iterator[Progress]:
        """Start everything and yield how it stands, until every learner has gone."""
        torch.set_num_threads(1)
        train = self.run_file.train
        self._model = build_model(train.model, train.seed)
        self._sources = load_sources(train.data, train.model.context, train.model.vocab_size)
        self.loss_first = self._evaluate()
        try:
            self.local.start()
            yield from self._watch()
        finally:
            self.local.stop()

    def kill(self, learner: str) -> None:
        """SIGKILL a learner, as if its machine were gone."""
        status = self.local.progress.status.get("learners", {}).get(learner, {})
        at_s = time.monotonic() - self.local.began_s
        self.killed.append(Killed(learner, at_s, int(status.get("incarnation", 0))))
        self.local.learners[learner].kill()
        self.local.say(learner, "was killed on purpose (SIGKILL)")

    def report(self) -> Report:
        """How it went; after `run`."""
        figures = Figures(
            run=self.run_file.name,
            run_dir=self.folder.root,
            seconds=self.seconds,
            learners=self.run_file.local.learners,
            loss_first=self.loss_first,
            loss_last=self.loss_last,
            parameters=self._model.num_params,
            data=self._sources.train.description,
            status=self.last_status,
        )
        faults = [
            Fault(
                each.learner,
                "SIGKILL",
                round(each.at_s, 1),
                time_to_heal_s(self.folder.tapes, each.learner, each.incarnation),
            )
            for each in self.killed
        ]
        report = build_report(figures, faults)
        report.write(self.folder.report)
        return report

    # ------------------------------------------------------------ inside

    def _watch(self) -> Iterator[Progress]:
        joined_s = 0.0
        over_by_s = float("inf")
        while not self.local.is_over and time.monotonic() < over_by_s:
            progress = self.local.poll()
            if progress.status:
                self.last_status = progress.status
            now_s = time.monotonic()
            if progress.trained and not joined_s:
                joined_s = now_s
            if progress.phase == "ended" and over_by_s == float("inf"):
                over_by_s = now_s + GOODBYE_S
                self.seconds = now_s - (joined_s or self.local.began_s)
                self.loss_last = self._evaluate_published()
            self.disturb(self)
            yield progress
            time.sleep(POLL_S)

    def _evaluate_published(self) -> float:
        try:
            with follow_run(read_invite(self.folder.invite)) as follower:
                follower.poll()
                follower.load_into(tensors_of(self._model))
        except FerryError as error:
            self.local.say("follower", f"could not read the published parameters: {error}")
            return float("nan")
        return self._evaluate()

    def _evaluate(self) -> float:
        train = self.run_file.train
        batches, size = train.num_evaluation_batches, train.batch_size
        return evaluate(self._model, self._sources.held_out, batches, size, train.step)
