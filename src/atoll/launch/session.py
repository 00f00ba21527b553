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

from atoll.launch.disk import need_of
from atoll.launch.folder import RunFolder
from atoll.launch.local import LocalRun, Progress
from atoll.launch.published import PublishedLoss
from atoll.launch.report import Fault, Figures, Report, build_report, time_to_heal_s
from atoll.runfile.settings import RunFile

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
    joined_s: float = 0.0
    ended_s: float = 0.0
    unkept_s: float = 0.0
    """Wall time of this session, where it could not be written down."""
    last_status: dict[str, Any] = field(default_factory=dict)
    local: LocalRun = field(init=False)
    published: PublishedLoss = field(init=False)

    def __post_init__(self) -> None:
        self.local = LocalRun(self.folder, self.run_file, self.new)

    def run(self) -> Iterator[Progress]:
        """Start everything and yield how it stands, until every learner has gone."""
        torch.set_num_threads(1)
        self.published = PublishedLoss(self.folder, self.run_file)
        self.loss_first = self.loss_last = self.published.of_initial()
        try:
            self.local.start()
            yield from self._watch()
        finally:
            seconds = self._seconds()
            try:
                self.local.stop()
            finally:
                self.published.close()
                self._keep_seconds(seconds)

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
            seconds=self.folder.seconds() + self.unkept_s,
            learners=self.run_file.local.learners,
            loss_first=self.loss_first,
            loss_last=self.loss_last,
            parameters=self.published.num_params,
            data=self.published.data,
            status=self.last_status,
            receipt=self.run_file.syncer.protocol.receipt,
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
        over_by_s = float("inf")
        look_at_s = time.monotonic() + self.run_file.local.evaluate_every_s
        while not self.local.is_over and time.monotonic() < over_by_s:
            progress = self.local.poll()
            if progress.status:
                self.last_status = progress.status
            now_s = time.monotonic()
            if progress.trained and not self.joined_s:
                self.joined_s = now_s
                self._say_disk_need(progress)
            if progress.phase == "ended" and over_by_s == float("inf"):
                over_by_s = now_s + GOODBYE_S
                self.ended_s = now_s
                self._look(progress)
            elif self.joined_s and now_s >= look_at_s:
                look_at_s = now_s + self.run_file.local.evaluate_every_s
                self._look(progress)
            self.disturb(self)
            yield progress
            time.sleep(POLL_S)

    def _seconds(self) -> float:
        """Wall time of this session, from when learners trained to the run's end or the stop."""
        return (self.ended_s or time.monotonic()) - self.joined_s if self.joined_s else 0.0

    def _keep_seconds(self, seconds: float) -> None:
        try:
            self.folder.add_seconds(seconds)
        except OSError as error:
            self.unkept_s = seconds
            what = f"cannot write down its {seconds:.0f} s for the reports of later ones: {error}"
            self.local.say("session", what)

    def _look(self, progress: Progress) -> None:
        seconds = time.monotonic() - self.local.began_s
        loss = self.published.measure(progress.trained, seconds)
        if loss == loss:
            self.loss_last = progress.loss = loss
        else:
            self.local.say("follower", self.published.trouble)

    def _say_disk_need(self, progress: Progress) -> None:
        paces = [each["pace_s"] for each in progress.status["learners"].values() if each["pace_s"]]
        need = need_of(self.run_file, self.published.num_params, min(paces, default=1.0))
        self.local.say("syncer", f"will need up to {need.sentence()}")
