"""The run folder and the session on a disk that fills, or was full."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.local import LaunchError
from atoll.launch.session import Session
from atoll.observe.sinks import ObserveSettings
from atoll.runfile.settings import RunFile, read_run_file
from atoll.syncer.settings import settings_from, settings_to
from full_disk import no_room
from launch.shore import RUN

FULL = Path("/dev/full")


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[RunFolder, RunFile]:
    file = tmp_path / "small.toml"
    text = RUN.format(budget=10**9, port=0, standby=0, lease_s=20.0)
    file.write_text(text.replace('standby = "127.0.0.1:0"', "") + "learners = 1\n")
    folder = RunFolder(tmp_path / "run")
    run_file, _ = folder.prepare(with_leases(read_run_file(file)))
    return folder, run_file


def test_a_torn_line_costs_its_session_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.seconds() == 0.0
    folder.add_seconds(1.5)
    with folder.sessions.open("a") as file:
        file.write('{"seco')
    assert folder.seconds() == 1.5
    folder.add_seconds(2.0)
    assert folder.seconds() == 3.5


def test_settings_that_find_no_room_leave_those_that_stand(
    prepared: tuple[RunFolder, RunFile],
) -> None:
    folder, run_file = prepared
    syncer = folder.syncer_settings.read_text()
    changed = replace(run_file, observe=ObserveSettings(tensorboard=False))
    with pytest.raises(OSError, match="too large"), no_room():
        folder.resume(changed)
    assert read_run_file(folder.run_file) == run_file
    assert folder.syncer_settings.read_text() == syncer
    assert folder.resume(changed).observe == changed.observe
    assert read_run_file(folder.run_file) == changed
    assert settings_from(settings_to(changed.syncer)) == changed.syncer


@pytest.mark.slow
def test_a_session_without_room_for_its_last_line_stops_all_the_same(
    prepared: tuple[RunFolder, RunFile],
) -> None:
    folder, run_file = prepared
    folder.sessions.symlink_to(FULL)
    folder.syncer_settings.write_text("no settings")
    session = Session(folder, run_file, new=True)
    with pytest.raises(LaunchError, match="the syncer did not start"):
        list(session.run())
    assert not session.local.syncer.is_running
    (said,) = [each for each in session.local.incidents if each.name == "session"]
    assert "cannot write down its 0 s" in said.what
