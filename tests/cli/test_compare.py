"""`atoll compare` and `atoll simulate train` on a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.served import command

RUN = """
seed = 1
uplink = "fp32"
[run]
run = "small"
budget_tokens = 6_144
[protocol]
M = 2
P = 4
H = 8
[merge]
downlink_codec = "fp32"
[outer]
kind = "sgd"
lr = 1.0
[train]
batch_size = 4
[train.model]
dim = 16
num_layers = 1
num_heads = 1
context = 16
[train.data]
max_megabytes = 0.2
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(RUN)
    return file


def documents(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_methods_are_compared_and_the_same_call_again_trains_nothing(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["compare", run_file, "--methods", "data-parallel,diloco-same-merge,decoupled"]
    call += ["--seeds", 2, "--dir", tmp_path / "results", "--json"]
    assert command(*call) == 0
    *done, table = documents(capsys)
    assert len(done) == 6
    rows = {row["method"]: row for row in table["rows"]}  # type: ignore[attr-defined]
    assert list(rows) == ["data-parallel", "diloco-same-merge", "decoupled"]
    assert rows["decoupled"]["trained_tokens"] == rows["data-parallel"]["trained_tokens"] == 6144
    assert "difference" not in rows["data-parallel"]
    assert rows["decoupled"]["half_interval"] > 0
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "results").iterdir()}
    assert len(files) == 6
    assert command(*call) == 0
    assert documents(capsys)[-1] == table
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_an_unknown_method_is_refused_with_those_that_are_known(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", run_file, "--methods", "magic") == 2
    assert "data-parallel" in capsys.readouterr().err


def test_learners_that_cannot_share_the_batch_are_refused(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", run_file, "--learners", 3) == 2
    assert "divides" in capsys.readouterr().err


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("compare", "--list") == 0
    assert "decoupled-paper" in capsys.readouterr().out


def test_failures_are_set_against_none(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    chart = tmp_path / "chart.png"
    call = ["simulate", "train", run_file, "--faults", "kill", "--mtbf", 15, "--down", 4, "--json"]
    assert command(*call, "--plot", chart) == 0
    (document,) = documents(capsys)
    calm, struck = document["rows"]  # type: ignore[misc]
    assert calm["goodput"] > struck["goodput"]
    assert struck["trained_tokens"] == calm["trained_tokens"]
    assert document["runs"]["kill every 15 s"]["interruptions"] > 0  # type: ignore[index]
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_chips_say_how_often_an_island_is_interrupted(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("simulate", "train", run_file, "--chips", 1_200_000) == 0
    found = capsys.readouterr().out
    assert "pause every 53 s" in found
    assert "interruptions in" in found
