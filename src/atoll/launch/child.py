"""A process of ours: started, watched, stopped. It dies with this one.

Each child holds the other end of a pipe to its standard input and stops when that ends, so nothing
is left behind even when this process is killed. Children have a session of their own: Ctrl-C goes
to this process, which stops them in order.

Pauses before a restart grow while lives are short, and begin anew after a life that was long
enough: a process that is killed once in a while is back at once, one that cannot run is not
started over and over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HEALTHY_S = 10.0
"""A life of this length was a good one."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
WINDOW_S = 600.0
"""Deaths are counted over so long."""
USERS_MISTAKE = 2
FIRST_TRIES = 3
"""Ends with an error of a process that never had a good life, until it is given up."""


@dataclass(slots=True)
class Child:
    """One process and its restarts."""

    name: str
    command: list[str]
    log: Path
    threads: int = 1
    starts: int = 0
    again_at_s: float = 0.0
    ended_well: bool = False
    status: int = 0
    """With which the last life ended; negative for a signal."""
    process: subprocess.Popen[bytes] | None = None
    _began_s: float = 0.0
    _short_lives: int = 0
    _was_healthy: bool = False
    _was_asked: bool = False
    _deaths_s: list[float] = field(default_factory=list, repr=False)
    _log_file: IO[bytes] | None = field(default=None, repr=False)

    def start(self, stdout: int | None = None) -> None:
        """Start it; what it prints goes to its log."""
        assert not self.is_running
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_file = self.log.open("ab")
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=stdout if stdout is not None else self._log_file,
            stderr=self._log_file,
            env=self.environment(),
            start_new_session=True,
        )
        self.adopt(process)

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """This process is its next life."""
        assert not self.is_running
        self.process, self._began_s = process, time.monotonic()
        self._was_asked = False
        self.starts += 1

    def environment(self) -> dict[str, str]:
        """What its processes see."""
        return dict(os.environ, OMP_NUM_THREADS=str(self.threads), PYTHONUNBUFFERED="1")

    @property
    def is_running(self) -> bool:
        """Whether it runs now."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started last; 0 for none."""
        return self.process.pid if self.process is not None else 0

    def died(self) -> int | None:
        """The exit status, once, when it has ended since the last look; negative for a signal."""
        if self.process is None or self.process.poll() is None:
            return None
        self.status = self.process.returncode
        self._close()
        self.ended_well = self.status == 0
        now_s = time.monotonic()
        if now_s - self._began_s >= HEALTHY_S:
            self._short_lives, self._was_healthy, pause_s = 0, True, 0.0
        else:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(10, self._short_lives))
            self._short_lives += 1
        self._deaths_s = [each for each in self._deaths_s if each > now_s - WINDOW_S] + [now_s]
        self.again_at_s = now_s + pause_s
        return self.status

    def hopeless(self, most_deaths: int) -> str:
        """Why it is not to be started again; empty where it is."""
        num_deaths, last_words = len(self._deaths_s), self.last_words()
        if self.status == USERS_MISTAKE and self.starts == 1:
            return f"{self.name} cannot run: {last_words} (see {self.log})"
        has_failed = self.status > 0 and not self._was_healthy
        if has_failed and self._short_lives >= FIRST_TRIES:
            return (
                f"{self.name} ended {self._short_lives} times before it had run for "
                f"{HEALTHY_S:.0f} s: {last_words} (see {self.log})"
            )
        if num_deaths > most_deaths or self._short_lives > most_deaths:
            return (
                f"{self.name} died {max(num_deaths, self._short_lives)} times within "
                f"{WINDOW_S / 60:.0f} minutes, and [local] restarts = {most_deaths}: "
                f"{last_words} (see {self.log})"
            )
        return ""

    def kill(self) -> None:
        """SIGKILL, as a machine that is gone."""
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """SIGTERM, once in a life: to a learner a second one means to go at once."""
        if self.process is not None and self.is_running and not self._was_asked:
            self._was_asked = True
            self.process.terminate()

    def stop(self, limit_s: float) -> None:
        """Ask it to stop, wait, and kill it if it does not."""
        if self.process is None:
            return
        if self.is_running:
            self.ask_to_stop()
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None
        self.process = None

    def last_words(self) -> str:
        """The mistake that it named last, with its fix; otherwise the last line that it printed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        for place in range(len(lines) - 1, max(-1, len(lines) - 4), -1):
            if lines[place].startswith("atoll: "):
                return " ".join([lines[place].removeprefix("atoll: "), *lines[place + 1 :]])
        return lines[-1] if lines else ""
