"""What a supervisor does not try again, and says at once. What it heals: test_failures.py."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.access.invite import read_invite, write_invite
from atoll.access.tokens import new_secret
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.local import LaunchError, LocalRun
from atoll.runfile.settings import RunFile, read_run_file
from atoll.store.store import Store
from launch.shore import RUN

LIMIT_S = 60.0


Prepared = tuple[RunFolder, RunFile]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    file = tmp_path / "small.toml"
    text = RUN.format(budget=10**9, port=0, standby=0, lease_s=20.0)
    file.write_text(text.replace('standby = "127.0.0.1:0"', "") + "learners = 1\n")
    folder = RunFolder(tmp_path / "run")
    run_file, _ = folder.prepare(with_leases(read_run_file(file)))
    return folder, run_file


def until_it_gives_up(local: LocalRun) -> str:
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        try:
            local.poll()
        except LaunchError as error:
            return str(error)
        time.sleep(0.05)
    raise AssertionError(f"it goes on: {local.incidents}")


@pytest.mark.slow
def test_a_learner_that_fails_with_a_users_mistake_is_not_tried_again(prepared: Prepared) -> None:
    folder, run_file = prepared
    own = folder.own_invite("island-0")
    own.parent.mkdir(parents=True)
    write_invite(own, replace(read_invite(folder.invite), secret=new_secret()))
    local = LocalRun(folder, run_file, new=True)
    try:
        local.start()
        said = until_it_gives_up(local)
    finally:
        local.stop()
    assert said.startswith("island-0 cannot run: cannot join run 'shore'")
    assert "secret" in said and local.learners["island-0"].starts == 1


@pytest.mark.slow
def test_a_syncer_whose_run_is_somebody_elses_now_is_not_started_again(prepared: Prepared) -> None:
    local = LocalRun(*prepared, new=True)
    local.learners.clear()
    try:
        local.start()
        with Store.open(local.folder.state, "shore"):
            said = until_it_gives_up(local)
    finally:
        local.stop()
    assert said.startswith("another syncer has taken this run over: ")
    assert "now belongs to epoch 2" in said and local.syncer.starts == 1
