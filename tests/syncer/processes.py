"""Real syncer processes for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atoll.access.private import write_private
from atoll.syncer.settings import SyncerSettings, settings_to
from syncer.lagoon import SECRET

SOURCE = Path(__file__).resolve().parents[2] / "src"
DOOMED = Path(__file__).with_name("doomed.py")


class Process:
    def __init__(self, command: list[str], **options: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "ignore"}
        self.popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )

    def ready(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise AssertionError(f"the syncer did not start: {self.errors()}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def errors(self) -> str:
        assert self.popen.stderr is not None
        return self.popen.stderr.read()

    def code(self) -> int:
        return self.popen.wait(timeout=30)


def files(root: Path, settings: SyncerSettings) -> list[str]:
    """Root, settings and secret, as files; written once."""
    root.mkdir(exist_ok=True)
    settings_file, secret_file = root / "settings.json", root / "secret"
    settings_file.write_text(json.dumps(settings_to(settings)))
    if not secret_file.exists():
        write_private(secret_file, SECRET.reveal().encode())
    return [str(root / "runs"), str(settings_file), str(secret_file)]


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[Process]:
    process = Process(command, **options)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()
        for stream in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            if stream is not None:
                stream.close()


def syncer(root: Path, settings: SyncerSettings, *more: str) -> list[str]:
    store, settings_file, secret = files(root, settings)
    paths = ["--root", store, "--settings", settings_file, "--secret-file", secret]
    return [sys.executable, "-m", "atoll.syncer", *paths, *more]


def doomed(root: Path, settings: SyncerSettings, when: str, fsync: int, *more: str) -> list[str]:
    return [sys.executable, str(DOOMED), *files(root, settings), when, str(fsync), *more]
