"""One run on one machine: a syncer, learners, and somebody who starts them again.

`LocalRun` starts the processes, looks after them at every `poll`, and stops them in order. It
decides nothing about training: a learner that died is started again under its name, and the
protocol takes it back.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from atoll.access.invite import read_invite
from atoll.launch.child import Child
from atoll.launch.folder import RunFolder
from atoll.launch.status import fetch_status
from atoll.runfile.settings import RunFile

START_S = 60.0
STOP_S = 20.0
LINGER_S = 5.0


class LaunchError(ValueError):
    """A process of the run could not be started or kept up. Names its log."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened to a process."""

    at_s: float
    name: str
    what: str


@dataclass(slots=True)
class Progress:
    """How a run stands, for a display."""

    status: dict[str, Any] = field(default_factory=dict)
    running: int = 0
    restarts: int = 0
    loss: float = float("nan")
    """Held-out loss of the published parameters, when last measured."""

    @property
    def phase(self) -> str:
        """What the coordinator is at."""
        return str(self.status.get("phase", "starting"))

    @property
    def trained(self) -> int:
        """Tokens trained by all learners."""
        return int(self.status.get("coordinator", {}).get("trained", 0))

    @property
    def share(self) -> float:
        """Share of the budget that is trained."""
        budget = int(self.status.get("coordinator", {}).get("budget", 0))
        return min(1.0, self.trained / budget) if budget else 0.0


class LocalRun:
    """Start, poll until it is over, stop in any case."""

    def __init__(self, folder: RunFolder, run_file: RunFile, new: bool):
        self.folder = folder
        self.run_file = run_file
        self.new = new
        self.began_s = 0.0
        self.incidents: list[Incident] = []
        self.progress = Progress()
        self.syncer = Child("syncer", [], folder.log("syncer"))
        threads = run_file.local.threads
        names = [f"island-{number}" for number in range(run_file.local.learners)]
        self.learners = {
            name: Child(name, self._learner_command(name), folder.log(name), threads)
            for name in names
        }

    # ------------------------------------------------------------ coming and going

    def start(self) -> None:
        """Start the syncer, wait until it listens, start the learners."""
        self.began_s = time.monotonic()
        self._start_syncer()
        for child in self.learners.values():
            child.start()

    def stop(self) -> None:
        """Learners first, then the syncer; nothing is left behind."""
        for child in self.learners.values():
            if child.process is not None and child.is_running:
                child.process.terminate()
        for child in self.learners.values():
            child.stop(STOP_S)
        self.syncer.stop(STOP_S)

    def _start_syncer(self) -> None:
        self.syncer.command = self._syncer_command()
        self.syncer.start(stdout=subprocess.PIPE)
        process = self.syncer.process
        assert process is not None and process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise LaunchError(
                f"the syncer did not start: {self.syncer.last_words()} (see {self.syncer.log})"
            )
        self.new = False

    # ------------------------------------------------------------ looking after it

    def poll(self) -> Progress:
        """Look at every process and at the syncer's status; start again what died."""
        self._look_after(self.syncer)
        for child in self.learners.values():
            self._look_after(child)
        status = self._status()
        if status:
            self.progress.status = status
        self.progress.running = len([1 for c in self.learners.values() if c.is_running])
        return self.progress

    @property
    def is_over(self) -> bool:
        """The run has ended and every learner has gone."""
        return all(child.ended_well for child in self.learners.values())

    def say(self, name: str, what: str) -> None:
        """Note an incident."""
        self.incidents.append(Incident(time.monotonic() - self.began_s, name, what))

    def _look_after(self, child: Child) -> None:
        status = child.died()
        if status is not None and not child.ended_well:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self.say(child.name, how)
        due = child.process is None and not child.ended_well and child.starts > 0
        if not due or time.monotonic() < child.again_at_s:
            return
        if child.starts > self.run_file.local.restarts:
            raise LaunchError(
                f"{child.name} died {child.starts} times: {child.last_words()} (see {child.log})"
            )
        self.progress.restarts += 1
        if child is self.syncer:
            self._start_syncer()
        else:
            child.start()
        self.say(child.name, "was started again")

    def _status(self) -> dict[str, Any]:
        return fetch_status(read_invite(self.folder.invite)) if self.syncer.is_running else {}

    # ------------------------------------------------------------ commands

    def _syncer_command(self) -> list[str]:
        folder = self.folder
        command = [sys.executable, "-m", "atoll.syncer", "--watch-stdin", "--exit-when-ended"]
        command += ["--linger-s", str(LINGER_S), "--root", str(folder.state)]
        command += ["--settings", str(folder.syncer_settings)]
        command += ["--secret-file", str(folder.secret), "--tapes", str(folder.tapes)]
        return [*command, "--new"] if self.new else command

    def _learner_command(self, name: str) -> list[str]:
        folder = self.folder
        command = [sys.executable, "-m", "atoll", "learner", str(folder.run_file)]
        command += ["--invite", str(folder.invite), "--name", name, "--watch-stdin"]
        command += ["--metrics", str(folder.metrics(name)), "--tapes", str(folder.tapes)]
        return command
