"""A syncer that keeps contributions: every merge of its tape is computed again, over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.tape.numbers import recomputer_of
from atoll.tape.replay import ReplayReport, replay
from cli.served import command
from syncer.lagoon import Merger, begun, serving, settings_of
from syncer.test_restarts import continue_as

ROUNDS = 4


def run_twice(home: Path, **service: Any) -> Path:
    """A run of two processes with merges in each; the folder of its tapes."""
    tapes = home / "tapes"
    settings = settings_of(**service)
    with serving(home / "state", settings, new=True, tapes=tapes) as up:
        client = begun(up.address.port)
        merger = Merger(client)
        for number in range(ROUNDS):
            merger.round(0.01 + number)
        client.close()
    with serving(home / "state", settings, tapes=tapes) as up:
        continue_as(client, up.address.port)
        for number in range(ROUNDS):
            merger.round(0.02 + number)
        client.leave()
    return tapes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_twice(tmp_path_factory.mktemp("run"), tape_payloads=True)


@pytest.fixture
def changed(recorded: Path) -> Iterator[Any]:
    """Flip a bit of a payload, which is put back afterwards."""
    undo: list[tuple[Path, bytes]] = []

    def flip(path: Path) -> Path:
        data = path.read_bytes()
        undo.append((path, data))
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return path

    yield flip
    for path, data in undo:
        path.write_bytes(data)


def replayed(tapes: Path) -> ReplayReport:
    return replay(tapes, recomputer_of(tapes))


def test_every_merge_of_both_processes_is_computed_again_to_the_same_bytes(recorded: Path) -> None:
    report = replayed(recorded)
    assert report.equal, report.first_difference
    assert report.merges == 2 * ROUNDS
    assert report.merges_recomputed == report.versions_recomputed == report.merges
    assert not report.notes


def payloads(tapes: Path, is_state: bool) -> list[Path]:
    """States are safetensors files, which begin with the size of a small header."""
    found = sorted((tapes / "shard-0" / "payloads").iterdir())
    return [path for path in found if (path.read_bytes()[8:9] == b"{") == is_state]


def test_a_flipped_bit_of_a_contribution_is_found_and_its_file_named(
    recorded: Path, changed: Any, capsys: Any
) -> None:
    path = changed(payloads(recorded, is_state=False)[0])
    report = replayed(recorded)
    assert not report.equal and str(path) in report.first_difference
    assert command("replay", recorded.parent) == 1
    assert path.name in capsys.readouterr().out


def test_a_flipped_bit_of_a_state_is_found_and_its_file_named(recorded: Path, changed: Any) -> None:
    path = changed(payloads(recorded, is_state=True)[0])
    report = replayed(recorded)
    assert not report.equal and str(path) in report.first_difference


def test_a_payload_that_is_gone_is_said_and_its_versions_are_not_called_equal(
    recorded: Path, tmp_path: Path
) -> None:
    path = payloads(recorded, is_state=False)[0]
    gone = path.rename(tmp_path / "gone")
    try:
        report = replayed(recorded)
    finally:
        gone.rename(path)
    assert report.equal and report.merges_recomputed == report.merges - 1
    assert report.versions_recomputed <= report.merges_recomputed
    assert "was not kept" in " ".join(report.notes)


def test_without_payloads_the_replay_says_that_it_compared_decisions_only(
    tmp_path: Path, capsys: Any
) -> None:
    tapes = run_twice(tmp_path)
    assert not list(tapes.glob("*/payloads"))
    assert command("replay", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"decisions only: none of {2 * ROUNDS} merges" in out and "tape_payloads" in out


def test_a_disk_that_refuses_payloads_ends_them_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def refuse(*_: object) -> None:
        refused.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atoll.tape.payloads.PayloadFolder._write", refuse)
    tapes = run_twice(tmp_path, tape_payloads=True)
    assert refused
    report = replayed(tapes)
    assert report.equal and report.merges == 2 * ROUNDS and report.merges_recomputed == 0
