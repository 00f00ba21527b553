"""How a local run stops: SIGTERM once in a life, and only an ended run's syncer stays away."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.launch import local as module
from atoll.launch.child import Child
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.local import LaunchError, LocalRun
from atoll.runfile.settings import read_run_file
from launch.shore import RUN
from launch.test_whole_run import atoll, has_stepped, needs_proc, run_file, wait_until
from leftovers import processes_of

LIMIT_S = 60.0

LEAVES = """
import signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
print("ready", flush=True)
while not told:
    time.sleep(0.005)
while time.monotonic() < told[0] + float(sys.argv[1]):
    time.sleep(0.005)
sys.exit(len(told))
"""
"""Hands in for a while after the first SIGTERM; its status is how often it was told."""


def until(what: Callable[[], object]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.fixture
def local(tmp_path: Path) -> LocalRun:
    file = tmp_path / "small.toml"
    text = RUN.format(budget=10**9, port=0, standby=0, lease_s=20.0)
    file.write_text(text.replace('standby = "127.0.0.1:0"', "") + "learners = 2\nspare = false\n")
    folder = RunFolder(tmp_path / "run")
    prepared, new = folder.prepare(with_leases(read_run_file(file)))
    return LocalRun(folder, prepared, new)


def test_everybody_is_told_to_stop_once_however_long_another_takes(local: LocalRun) -> None:
    for child, seconds in zip(local.learners.values(), ("0.4", "1.2"), strict=True):
        child.command = [sys.executable, "-c", LEAVES, seconds]
        child.start()
    lives = [child.process for child in local.learners.values()]
    until(lambda: all("ready" in child.log.read_text() for child in local.learners.values()))
    local.stop()
    assert [life.returncode for life in lives if life is not None] == [1, 1]


def test_the_next_life_is_told_again(tmp_path: Path) -> None:
    child = Child("reef", [sys.executable, "-c", LEAVES, "0"], tmp_path / "reef.log")
    for _ in range(2):
        child.log.unlink(missing_ok=True)
        child.start()
        life = child.process
        assert life is not None
        try:
            until(lambda: "ready" in child.log.read_text())
            child.ask_to_stop()
            assert life.wait(LIMIT_S / 3) == 1
        finally:
            child.kill()
        assert child.died() == 1


@pytest.mark.slow
def test_a_syncer_that_somebody_stopped_is_said_and_started_again(local: LocalRun) -> None:
    local.learners.clear()
    try:
        local.start()
        os.kill(local.syncer.pid, signal.SIGTERM)
        until(lambda: local.poll() and local.syncer.starts == 2)
        until(lambda: local.poll().status)
    finally:
        local.stop()
    said = [each.what for each in local.incidents if each.name == "syncer"]
    assert said[0].startswith("ended with status 0; it is started again")
    assert said[1] == "was started again"


SLOW = """
import json, pathlib, sys, time
from atoll.store.store import Store
from atoll.syncer.pulse import Pulse
go = pathlib.Path(sys.argv[2])
with Store.create(pathlib.Path(sys.argv[1]), "shore", {}) as store:
    Pulse(store, print).start()
    until_s = time.monotonic() + 60
    while not go.exists() and time.monotonic() < until_s:
        time.sleep(0.05)
    print(json.dumps({"event": "ready"}), flush=True)
    sys.stdin.read()
"""
"""Reads a large state back: it owns the run and beats, and listens when it is told to."""


class Patient(LocalRun):
    """Lets the slow syncer go on once it was said that it is waited for."""

    def say(self, name: str, what: str) -> None:
        super().say(name, what)
        (self.folder.root / "go").touch()


@pytest.mark.slow
def test_a_syncer_that_reads_its_state_for_long_is_waited_for(
    local: LocalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_S", 5.0)
    patient = Patient(local.folder, local.run_file, local.new)
    patient.learners.clear()
    go = str(local.folder.root / "go")
    slow = [sys.executable, "-c", SLOW, str(local.folder.state), go]
    monkeypatch.setattr(patient, "_syncer_command", lambda: slow)
    try:
        patient.start()
    finally:
        patient.stop()
    assert patient.incidents[0].what.startswith("still reads its state, ")


def test_a_syncer_that_never_shows_a_sign_of_life_is_given_up(
    local: LocalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_S", 0.3)
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    monkeypatch.setattr(local, "_syncer_command", lambda: silent)
    with pytest.raises(LaunchError, match="the syncer did not start"):
        local.start()
    local.stop()


@needs_proc
@pytest.mark.slow
def test_sigterm_stops_a_run_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file, run_dir = run_file(tmp_path, 10**9), tmp_path / "run"
    run = atoll("train", str(file), "--dir", str(run_dir))
    try:
        wait_until("a learner has trained", lambda: has_stepped(run_dir) or run.poll() is not None)
        assert len(processes_of(run_dir)) >= 3
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=LIMIT_S)
    finally:
        run.kill()
    assert run.returncode == 128 + signal.SIGTERM, err
    assert processes_of(run_dir) == []
    logs = [(run_dir / "logs" / f"island-{n}.log").read_text() for n in range(2)]
    assert any("SIGTERM: it was told to leave" in log for log in logs)

    changed = tmp_path / "changed.toml"
    changed.write_text(file.read_text().replace("batch_size = 4", "batch_size = 8"))
    again = atoll("train", str(changed), "--dir", str(run_dir))
    assert again.stderr is not None
    said = again.stderr.readline()
    again.send_signal(signal.SIGKILL)
    again.communicate(timeout=LIMIT_S)
    assert said.startswith("train.batch_size stays 4, as this run began, and is not 8: ")
    wait_until("nothing is left", lambda: not processes_of(run_dir))
