"""A syncer and two learners as processes on the loopback; one is killed and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.access.addresses import Address
from atoll.access.invite import Invite, write_invite
from atoll.access.tls import issue_server, make_authority, write_credentials
from atoll.access.tokens import new_secret
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import door_of
from atoll.ferry.follower import follow_run
from atoll.ferry.pace import Pace

ROOT = Path(__file__).resolve().parents[2]
ISLAND = Path(__file__).with_name("island_process.py")
LIMIT_S = 60.0
SETTINGS = {
    "run": {"run": "reef", "budget_tokens": 10**9, "progress_every_s": 0.5},
    "protocol": {"M": 2, "P": 2, "H": 8, "K": 1, "beat_s": 0.2, "silence_s": 1.0, "retry_s": 0.1},
}


class World:
    """One syncer and the processes around it."""

    def __init__(self, home: Path, tls: bool):
        self.home = home
        self.authority = make_authority("reef") if tls else None
        if self.authority is not None:
            server = issue_server(self.authority, ["127.0.0.1"])
            write_credentials(server, home / "server.pem", home / "server.key")
        self.secret = new_secret()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.invite: Invite | None = None
        self.stop_file = home / "stop"
        self.write_settings(SETTINGS)
        secret = home / "secret"
        secret.write_text(self.secret.reveal())
        secret.chmod(0o600)

    def write_settings(self, settings: dict[str, Any]) -> None:
        (self.home / "settings.json").write_text(json.dumps(settings))

    def start_syncer(self, new: bool, port: int = 0) -> None:
        plain = json.loads((self.home / "settings.json").read_text())
        plain["service"] = {"port": port}
        (self.home / "settings.json").write_text(json.dumps(plain))
        command = ["-m", "atoll.syncer", "--root", str(self.home / "runs")]
        command += ["--settings", str(self.home / "settings.json")]
        command += ["--secret-file", str(self.home / "secret"), *(["--new"] if new else [])]
        if self.authority is not None:
            command += ["--tls-certificate", str(self.home / "server.pem")]
            command += ["--tls-key", str(self.home / "server.key")]
        process = self._start("syncer", command)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        if self.invite is None:
            address = Address("127.0.0.1", ready["port"])
            ca_pem = self.authority.certificate_pem if self.authority is not None else ""
            self.invite = Invite("reef", (address,), ca_pem, self.secret)
            write_invite(self.home / "run.invite", self.invite)

    def start_island(self, name: str) -> None:
        record = self.home / f"{name}.jsonl"
        command = [str(ISLAND), str(self.home / "run.invite"), name]
        self._start(name, [*command, str(self.stop_file), str(record)])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        with (self.home / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE if name == "syncer" else log,
                stderr=log,
                env=environment,
                text=True,
            )
        return self.processes[name]

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        if process.stdout is not None:
            process.stdout.close()

    def status(self) -> dict[str, Any]:
        assert self.invite is not None
        connection = BulkConnection(door_of(self.invite), Pace())
        try:
            plain: dict[str, Any] = json.loads(connection.ask(Request("GET", "/api/status")).body)
        finally:
            connection.close()
        return plain

    def versions(self) -> list[int]:
        shards = self.status().get("shards")
        return [each["version"] for each in shards["0"]["fragments"]] if shards else [-1]

    def records(self, name: str) -> list[Any]:
        path = self.home / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def installed(self, name: str) -> dict[tuple[int, int], str]:
        return {(r[0], r[1]): r[2] for r in self.records(name) if isinstance(r, list)}

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not until():
            assert time.monotonic() < deadline_s, f"{what} never came:\n{self.logs()}"
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended:\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.home.glob("*.log")
        )


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, tls="under_tls" in request.node.name)
    made.start_syncer(new=True)
    yield made
    for name in list(made.processes):
        made.kill(name)


def test_killed_learner_comes_back_and_merging_goes_on(world: World) -> None:
    world.start_island("ann")
    world.start_island("bob")
    world.wait("the first merges", lambda: min(world.versions()) >= 2 and _both(world))

    world.kill("bob")
    before = max(world.versions())
    world.wait("merges without bob", lambda: min(world.versions()) >= before + 2)
    world.start_island("bob")
    world.wait("bob's second life", lambda: _lives(world, "bob") == 2)
    back = max(world.versions())
    world.wait("merges with bob", lambda: _common(world, back + 1) >= 2)

    ann, bob = world.installed("ann"), world.installed("bob")
    for key in ann.keys() & bob.keys():
        assert ann[key] == bob[key], "both hold the same bytes of the same version"
    assert _merged_learners(world) == {"ann", "bob"}
    assert world.invite is not None
    with follow_run(world.invite, LIMIT_S) as follower:
        assert min(follower.poll(LIMIT_S)) > before
        assert follower.poll(LIMIT_S) >= follower.versions
    _leave(world)


def test_killed_syncer_comes_back_and_merging_goes_on_under_tls(world: World) -> None:
    world.start_island("ann")
    world.start_island("bob")
    world.wait("the first merges", lambda: min(world.versions()) >= 2 and _both(world))
    assert world.invite is not None
    port = world.invite.addresses[0].port
    world.kill("syncer")
    seen = max(version for _, version in world.installed("ann"))
    world.start_syncer(new=False, port=port)
    world.wait("merges after the restart", lambda: min(world.versions()) >= seen + 2)
    world.wait("installs after the restart", lambda: _common(world, seen + 1) >= 2)
    assert (_lives(world, "ann"), _lives(world, "bob")) == (1, 1), "the sessions go on"
    _leave(world)


def _leave(world: World) -> None:
    """Everybody leaves by itself and hands in what it has."""
    world.stop_file.touch()
    for name in ("ann", "bob"):
        assert world.processes[name].wait(LIMIT_S) == 0, world.logs()
        assert world.records(name)[-1] == {"left": name}
        world.processes.pop(name)


def _both(world: World) -> bool:
    return bool(world.installed("ann")) and bool(world.installed("bob"))


def _lives(world: World, name: str) -> int:
    return len([1 for r in world.records(name) if isinstance(r, dict) and "joined" in r])


def _common(world: World, from_version: int) -> int:
    both = world.installed("ann").keys() & world.installed("bob").keys()
    return len([1 for _, version in both if version >= from_version])


def _merged_learners(world: World) -> set[str]:
    return set(world.status()["learners"])
