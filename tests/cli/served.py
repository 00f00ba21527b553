"""`atoll` as a process, and the syncer of a run folder for the length of a block."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.cli import main

SRC = Path(__file__).resolve().parents[2] / "src"
LIMIT_S = 120.0


def environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(SRC), OMP_NUM_THREADS="1")


def atoll(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "atoll", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=LIMIT_S, check=False
    )


def command(*arguments: object) -> int:
    """A command within this process; its exit code."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(run_file: Path, folder: Path) -> Iterator[dict[str, object]]:
    """`atoll syncer`, killed at the end; gives what it said when it was ready."""
    command = [sys.executable, "-m", "atoll", "syncer", str(run_file), "--dir", str(folder)]
    log = folder.parent / "syncer.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=errors, env=environment()
        )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        line = process.stdout.readline() if ready else b""
        assert line, log.read_text()
        yield json.loads(line)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()
