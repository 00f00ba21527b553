"""One run on one machine: a syncer, learners, and somebody who starts them again.

`LocalRun` starts the processes, looks after them at every `poll`, and stops them in order. It
decides nothing about training: a learner that died is started again under its name, and the
protocol takes it back. Where a spare is warm, it becomes the learner. Whatever is done is said in
`incidents`.
"""

from __future__ import annotations

import logging
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from atoll.access.invite import read_invite
from atoll.launch.child import Child
from atoll.launch.folder import RunFolder
from atoll.launch.spare import Spare
from atoll.launch.status import fetch_status
from atoll.runfile.settings import RunFile
from atoll.syncer.standby import OVER, WAIT, OwnerWatch

START_S = 60.0
"""A syncer that starts and shows no sign of life for so long is given up."""
STOP_S = 20.0
LINGER_S = 5.0
REFILL_S = 5.0
"""The next spare warms up when no learner was started for so long."""
FENCED = 3

log = logging.getLogger("atoll.launch")


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
        self.syncer_options: list[str] = []
        self.syncer = Child("syncer", [], folder.log("syncer"))
        self.spare = Spare(folder.root, folder.log("spare"))
        self._started_s = float("inf")
        self._degraded = ""
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
        self.spare.stop()
        for child in self.learners.values():
            child.ask_to_stop()
        for child in self.learners.values():
            child.stop(STOP_S)
        self.syncer.stop(STOP_S)

    def _start_syncer(self) -> None:
        watch = self._owner_watch()
        watch.look()
        self.syncer.command = self._syncer_command()
        self.syncer.start(stdout=subprocess.PIPE)
        process = self.syncer.process
        assert process is not None and process.stdout is not None
        while not (ready := select.select([process.stdout], [], [], START_S)[0]):
            turn = watch.look()
            if turn.do != WAIT or not turn.epoch:
                break
            self._say_slow_start()
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise LaunchError(
                f"the syncer did not start: {self.syncer.last_words()} (see {self.syncer.log})"
            )
        self.new = False

    def _owner_watch(self) -> OwnerWatch:
        return OwnerWatch(self.folder.state, self.run_file.name)

    def _say_slow_start(self) -> None:
        """Both ways: nothing is shown of a run before its syncer listens."""
        seconds = time.monotonic() - self.began_s
        what = f"still reads its state, {seconds:.0f} s after its start: it is waited for"
        self.say("syncer", what)
        log.warning("the syncer %s", what)

    # ------------------------------------------------------------ looking after it

    def poll(self) -> Progress:
        """Look at every process and at the syncer's status; start again what died."""
        self._look_after(self.syncer)
        for child in self.learners.values():
            self._look_after(child)
        status = self._status()
        if status:
            self.progress.status = status
            self._say_degraded(str(status.get("degraded", "")))
        self.progress.running = len([1 for c in self.learners.values() if c.is_running])
        self._keep_spare()
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
        if child is self.syncer and child.ended_well:
            child.ended_well = self._owner_watch().look().do == OVER  # somebody may have stopped it
        if status is not None and not child.ended_well:
            self._say_death(child, status)
        due = child.process is None and not child.ended_well and child.starts > 0
        if not due or time.monotonic() < child.again_at_s:
            return
        self.progress.restarts += 1
        self.say(child.name, self._start_again(child))

    def _say_death(self, child: Child, status: int) -> None:
        """And that it is started again, or LaunchError where it is not."""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        hopeless = child.hopeless(self.run_file.local.restarts)
        if child is self.syncer and status == FENCED:
            hopeless = f"another syncer has taken this run over: {child.last_words()}"
        if hopeless:
            self.say(child.name, how)
            raise LaunchError(hopeless)
        pause_s = max(0.0, child.again_at_s - time.monotonic())
        self.say(child.name, f"{how}; it is started again" + _in_words(pause_s))

    def _start_again(self, child: Child) -> str:
        """A restarted syncer is not waited for: learners come back to it when it listens."""
        if child is self.syncer:
            child.command = self._syncer_command()
            child.start()
            return "was started again"
        self._started_s = time.monotonic()
        if self.spare.is_warm():
            process = self.spare.become(child.command[3:], child.log)
            if process is not None:
                child.adopt(process)
                return "goes on in the spare process"
        child.start()
        return "was started again"

    def _keep_spare(self) -> None:
        """Warm one up when the run is under way and nobody is on the way back."""
        if not self.run_file.local.spare or self.spare.is_there:
            return
        if self.progress.phase != "training" or not self.progress.trained:
            return
        now_s = time.monotonic()
        self._started_s = min(self._started_s, now_s)
        all_run = self.progress.running == len(self.learners)
        if all_run and now_s - self._started_s >= REFILL_S:
            self.spare.start(next(iter(self.learners.values())).environment())

    def _say_degraded(self, sentence: str) -> None:
        """When it begins, changes, and is over."""
        if sentence != self._degraded:
            self._degraded = sentence
            self.say("syncer", sentence or "everybody who is live is merged again")

    def _status(self) -> dict[str, Any]:
        return fetch_status(read_invite(self.folder.invite)) if self.syncer.is_running else {}

    # ------------------------------------------------------------ commands

    def _syncer_command(self) -> list[str]:
        folder = self.folder
        command = [sys.executable, "-m", "atoll.syncer", "--watch-stdin", "--exit-when-ended"]
        command += ["--linger-s", str(LINGER_S), "--root", str(folder.state)]
        command += ["--settings", str(folder.syncer_settings)]
        command += ["--secret-file", str(folder.secret), "--tapes", str(folder.tapes)]
        command += self.syncer_options
        return [*command, "--new"] if self.new else command

    def _learner_command(self, name: str) -> list[str]:
        folder = self.folder
        command = [sys.executable, "-m", "atoll", "learner", str(folder.run_file)]
        command += ["--invite", str(folder.invite_for(name)), "--name", name, "--watch-stdin"]
        command += [
            "--leave-s",
            str(STOP_S - 2.0),
            "--metrics",
            str(folder.metrics(name)),
            "--tapes",
            str(folder.tapes),
            "--max-alone",
            str(self.run_file.local.max_alone_s),
        ]
        return command


def _in_words(pause_s: float) -> str:
    return f" in {pause_s:.1f} s" if pause_s > 0.1 else ""
