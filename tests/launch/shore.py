"""A run of real processes, started and ended by hand: `atoll syncer`, its standby, learners."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll.access.invite import Invite, read_invite
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.status import fetch_status
from atoll.runfile.settings import read_run_file, write_resolved
from atoll.tape.verify import VerifyReport, verify

SRC = Path(__file__).resolve().parents[2] / "src"
LIMIT_S = 90.0

RUN = """
uplink = "int8"
seed = 3

[run]
run = "shore"
budget_tokens = {budget}
progress_every_s = 0.5
lease_s = {lease_s}
last_round_s = 5.0

[protocol]
receipt = "keep"
M = 2
K = 1
P = 4
H = 4
beat_s = 0.2
silence_s = 1.0
retry_s = 0.1

[merge]
downlink_codec = "int8"

[outer]
kind = "sgd"
lr = 1.0

[service]
port = {port}
standby = "127.0.0.1:{standby}"

[train]
batch_size = 4

[train.data]
max_megabytes = 0.5

[train.model]
preset = "tiny"

[local]
min_step_s = 0.05
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Shore:
    """Processes by name; `close` ends them all."""

    def __init__(self, home: Path, budget: int = 10**9, lease_s: float = 30.0):
        self.home = home
        self.folder = RunFolder(home / "run")
        self.run_file = home / "shore.toml"
        port, standby = free_ports(2)
        text = RUN.format(budget=budget, port=port, standby=standby, lease_s=lease_s)
        self.run_file.write_text(text)
        write_resolved(self.run_file, with_leases(read_run_file(self.run_file)))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def invite(self) -> Invite:
        return read_invite(self.folder.invite)

    # ------------------------------------------------------------ processes

    def syncer(self, name: str = "syncer", *more: str) -> None:
        place = ["syncer", str(self.run_file), "--dir", str(self.folder.root), "--json"]
        self._start(name, [*place, *more])

    def standby(self, name: str = "standby") -> None:
        self.syncer(name, "--standby", "--takeover-after", "2.5")

    def learner(self, name: str, *more: str, invite: Path | None = None) -> None:
        command = ["learner", str(self.run_file), "--invite", str(invite or self.folder.invite)]
        command += ["--name", name, "--metrics", str(self.folder.metrics(name))]
        self._start(name, [*command, "--tapes", str(self.folder.tapes), *more])

    def _start(self, name: str, arguments: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
        with self.log(name, "out").open("ab") as out, self.log(name, "err").open("ab") as err:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "atoll", *arguments], stdout=out, stderr=err, env=environment
            )

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(LIMIT_S)

    def end_of(self, name: str) -> int:
        """Wait for its own end; the exit status."""
        return self.processes.pop(name).wait(LIMIT_S)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    # ------------------------------------------------------------ looking

    def log(self, name: str, kind: str) -> Path:
        return self.home / f"{name}.{kind}"

    def said(self, name: str) -> str:
        return self.log(name, "err").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.log(name, "out")
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def steps(self, name: str) -> int:
        path = self.folder.metrics(name)
        return path.read_text().count("step_s") if path.exists() else 0

    def status(self) -> dict[str, Any]:
        return fetch_status(self.invite)

    def lives(self) -> dict[str, int]:
        """Which life each learner is in."""
        learners = self.status().get("learners", {})
        return {name: int(each["incarnation"]) for name, each in learners.items()}

    def versions(self) -> list[int]:
        shards = self.status().get("shards")
        return [each["version"] for each in shards["0"]["fragments"]] if shards else [-1]

    def merging(self, more: int = 2) -> None:
        """Wait until every fragment has been merged so often again."""
        before = self.wait("the versions", lambda: [v for v in [self.versions()] if min(v) >= 0])[0]
        wanted = [version + more for version in before]
        self.wait(
            "more merges", lambda: all(n >= w for n, w in zip(self.versions(), wanted, strict=True))
        )

    def wait(self, what: str, until: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + LIMIT_S
        while not (found := until()):
            assert time.monotonic() < deadline_s, f"{what} never came:\n{self.logs()}"
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended:\n{self.logs()}"
            time.sleep(0.05)
        return found

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-2000:]}"
            for path in sorted(self.home.glob("*.err"))
        )

    def verified(self) -> VerifyReport:
        """What the tapes say, once everybody has gone in order."""
        verdict = verify(self.folder.tapes)
        assert verdict.ok, [each for each in verdict.checks if not each.ok]
        return verdict
