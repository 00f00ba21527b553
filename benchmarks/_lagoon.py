"""A real syncer process to measure against, with TLS or without, behind a link or not.

Its durable state lies in a temporary folder, on the disk that holds temporary files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.private import write_private
from atoll.access.tls import issue_server, make_authority, write_credentials
from atoll.access.tokens import new_secret
from atoll.chaos.links import Links
from atoll.chaos.proxy import Shape
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import door_of
from atoll.ferry.pace import Pace

RUN = "bench"
STOP_S = 20.0
ENDLESS_TOKENS = 10**15


class Lagoon:
    """A syncer for one run. `mbit_s`: put a link before it; 0 for one without a cap, None for none.

    `settings` are the tables of a syncer's settings file; the run's name and budget are given.
    """

    def __init__(
        self, settings: Mapping[str, Any], tls: bool = False, mbit_s: float | None = None
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="atoll-bench-"))
        self._mbit_s = mbit_s
        self._link: Links | None = None
        self._syncer: subprocess.Popen[str] | None = None
        self._secret = new_secret()
        write_private(self.home / "secret", self._secret.reveal().encode())
        self._settings = {key: dict(table) for key, table in settings.items() if key != "uplink"}
        self._settings["run"] = {"run": RUN, "budget_tokens": ENDLESS_TOKENS}
        self._uplink = settings.get("uplink", "bf16")
        self._port = 0
        self._ca_pem = self._make_keys() if tls else ""

    def __enter__(self) -> Self:
        self.start(new=True)
        port = self._port
        if self._mbit_s is not None:
            self._link = Links(self._port, 1)
            self._link.open()
            self.link("mend")
            port = self._link.ports[0]
        self.invite = Invite(RUN, (Address("127.0.0.1", port),), self._ca_pem, self._secret)
        """The way in, over the link where there is one."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._link is not None:
            self._link.close()
        if self._syncer is not None:
            self._syncer.kill()
            self._syncer.wait(STOP_S)
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, new: bool = False) -> None:
        """Start it; after a kill it takes the run over at the same port."""
        service = {**self._settings.get("service", {}), "port": self._port}
        plain = {**self._settings, "service": service, "uplink": self._uplink}
        (self.home / "settings.json").write_text(json.dumps(plain))
        paths = {"root": "runs", "settings": "settings.json", "secret-file": "secret"}
        if self._ca_pem:
            paths |= {"tls-certificate": "server.pem", "tls-key": "server.key"}
        command = [sys.executable, "-m", "atoll.syncer", "--log-level", "error", "--watch-stdin"]
        for name, file in paths.items():
            command += [f"--{name}", str(self.home / file)]
        self._syncer = _child([*command, "--new"] if new else command)
        self._port = json.loads(_first_line(self._syncer))["port"]

    @property
    def pid(self) -> int:
        """Of the syncer."""
        assert self._syncer is not None
        return self._syncer.pid

    def signal(self, number: signal.Signals) -> None:
        """Stop it, let it go on, kill it."""
        assert self._syncer is not None
        self._syncer.send_signal(number)
        if number == signal.SIGKILL:
            self._syncer.wait(STOP_S)

    def link(self, word: str) -> None:
        """`cut` or `mend` the link."""
        assert self._link is not None and self._mbit_s is not None
        shape = Shape(mbit_s=self._mbit_s, cut=word == "cut")
        self._link.shape([0], shape, shape)

    def status(self) -> dict[str, Any]:
        """The syncer's status."""
        connection = BulkConnection(door_of(self.invite), Pace())
        try:
            plain: dict[str, Any] = json.loads(connection.ask(Request("GET", "/api/status")).body)
        finally:
            connection.close()
        return plain

    def cpu_s(self) -> float:
        """Processor time of the syncer so far; Linux only."""
        return process_cpu_s(self.pid)

    def _make_keys(self) -> str:
        authority = make_authority(RUN)
        server = issue_server(authority, ["127.0.0.1"])
        write_credentials(server, self.home / "server.pem", self.home / "server.key")
        return authority.certificate_pem


def process_cpu_s(pid: int) -> float:
    """Processor time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_cores_s() -> float:
    """Seconds that all cores together were busy since the machine's start; Linux only.

    Without what ran at a lowered priority, which yields to everybody else.
    """
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    _, lowered, _, idle, waiting, *_ = fields
    return (sum(fields) - lowered - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _child(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} did not start: see above")
    return line
