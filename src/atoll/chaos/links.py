"""The process of links beside a run: started, given orders, stopped. Dies with this one."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from atoll.chaos.proxy import Shape
from atoll.core.settings import SettingsError

ANSWER_S = 30.0
STOP_S = 10.0

WHOLE = Shape()
"""A link without a fault."""


class LinksError(SettingsError):
    """The links could not be opened, or do not answer."""


class Links:
    """`num_links` ways to `port` on this machine; `ports` is where each one begins."""

    def __init__(self, port: int, num_links: int) -> None:
        self._target = port
        self._num_links = num_links
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self.ports: list[int] = []

    @property
    def pid(self) -> int:
        """Of the process of links."""
        assert self._process is not None, "the links are not open"
        return self._process.pid

    def open(self) -> None:
        """Start listening."""
        arguments = [str(self._target), str(self._num_links)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "atoll.chaos.proxy", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )
        self.ports = json.loads(self._line())

    def shape(self, links: list[int], up: Shape = WHOLE, down: Shape = WHOLE) -> None:
        """From now on these links are like this; `up` is towards the syncer."""
        self._order({"links": links, "up": asdict(up), "down": asdict(down)})

    def act(self, links: list[int], what: str) -> None:
        """`reset` or `half_open` the connections that go through these links now."""
        self._order({"links": links, "act": what})

    def frozen(self, pids: list[int]) -> None:
        """These go on when this process has died: nobody else would wake them."""
        self._order({"frozen": pids})

    def close(self) -> None:
        """End the process; every connection breaks."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _order(self, order: dict[str, Any]) -> None:
        with self._lock:
            if self._process is None:
                return  # the run is over, and every fault with it
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                raise LinksError(f"the process of links is gone: {error}") from error
            self._line()

    def _line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise LinksError("the process of links does not answer: see what it printed above")
        return line
