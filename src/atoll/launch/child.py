"""A process of ours: started, watched, stopped. It dies with this one.

Each child holds the other end of a pipe to its standard input and stops when that ends, so nothing
is left behind even when this process is killed. Children have a session of their own: Ctrl-C goes
to this process, which stops them in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


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
    process: subprocess.Popen[bytes] | None = None
    _log_file: IO[bytes] | None = field(default=None, repr=False)

    def start(self, stdout: int | None = None) -> None:
        """Start it; what it prints goes to its log."""
        assert not self.is_running
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_file = self.log.open("ab")
        self.starts += 1
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads), PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=stdout if stdout is not None else self._log_file,
            stderr=self._log_file,
            env=environment,
            start_new_session=True,
        )

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
        status = self.process.returncode
        self._close()
        self.ended_well = status == 0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(10, self.starts - 1))
        self.again_at_s = time.monotonic() + pause_s
        return status

    def kill(self) -> None:
        """SIGKILL, as a machine that is gone."""
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGKILL)

    def stop(self, limit_s: float) -> None:
        """Ask it to stop, wait, and kill it if it does not."""
        if self.process is None:
            return
        if self.is_running:
            self.process.terminate()
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
        self.process = None

    def last_words(self) -> str:
        """The last line that it printed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""
