"""A spare from within: import what a learner needs, wait for a command, and run it.

`python -m atoll.cli.spare FOLDER`, started by `atoll.launch.spare`; the folder is there to be seen
in a list of processes. Must never do anything of a run before it is told to: no invite is read,
nothing is connected.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from atoll.launch.spare import READY

NICENESS = 10


def main() -> int:
    """Warm up, wait, and become what is asked for."""
    warming = threading.Thread(target=_warm_up)
    warming.start()
    warming.join()
    os.write(sys.stdout.fileno(), READY)
    line = _first_line(sys.stdin.fileno())
    if not line:
        return 0
    asked = json.loads(line)
    log = os.open(asked["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    from atoll.cli import main as run_command

    return run_command(asked["arguments"])


def _first_line(fd: int) -> bytes:
    """One line, and not a byte more: the rest of standard input belongs to the command."""
    line = b""
    while byte := os.read(fd, 1):
        if byte == b"\n":
            return line
        line += byte
    return b""


def _warm_up() -> None:
    """Everything that is slow the first time, at a priority that leaves running learners alone.

    On Linux the priority is this thread's own, so the learner that this becomes has the usual one.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    import atoll.cli.learner  # noqa: F401  # what the command is going to import
    from atoll.train.model import build_model
    from atoll.train.settings import PRESETS, OptimizerSettings
    from atoll.train.step import build_optimizer

    model = build_model(PRESETS["tiny"], 0)
    build_optimizer(model, OptimizerSettings()).zero_grad()


if __name__ == "__main__":
    sys.exit(main())
