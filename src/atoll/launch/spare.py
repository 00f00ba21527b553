"""A spare: a process that has imported all that a learner needs, and waits to become one.

Importing takes most of the time that a learner needs to come back, so one process does it ahead.
It prints one line when it is warm, and then takes one line of JSON on standard input: the arguments
of `atoll`, and the file for what it prints. Until then the end of standard input ends it, so none
outlives whoever started it. Its own side is `atoll.cli.spare`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

READY = b"warm\n"


class Spare:
    """The side of whoever keeps a spare: at most one process, warm or warming up."""

    def __init__(self, folder: Path, log: Path):
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._is_warm = False

    @property
    def is_there(self) -> bool:
        """There is a process, warm or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the spare; 0 for none."""
        return self._process.pid if self._process is not None else 0

    def start(self, environment: dict[str, str]) -> None:
        """Begin to warm one up; `environment` is what the command will see."""
        assert not self.is_there, "one is enough"
        self.stop()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "atoll.cli.spare", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def is_warm(self) -> bool:
        """It would become a learner at once."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        assert process.stdout is not None
        if not self._is_warm and select.select([process.stdout], [], [], 0)[0]:
            self._is_warm = process.stdout.readline() == READY
        return self._is_warm

    def become(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes] | None:
        """Have it run `atoll` with these arguments; None where it died before it could."""
        process, self._process, self._is_warm = self._process, None, False
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdout.close()
        try:
            process.stdin.write(json.dumps({"arguments": [*arguments], "log": str(log)}).encode())
            process.stdin.write(b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            return None
        return process

    def stop(self) -> None:
        """Nothing is left of it."""
        process, self._process, self._is_warm = self._process, None, False
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
