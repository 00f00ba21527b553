"""`atoll chaos`: mistakes with their fix, and a small storm of real processes that heals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atoll import cli
from leftovers import processes_of

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240.0

RUN = """
uplink = "int8"
seed = 3

[run]
run = "small"
budget_tokens = 1_000_000

[protocol]
P = 4
H = 4
silence_s = 4.0
beat_s = 0.5

[merge]
downlink_codec = "int8"

[outer]
kind = "sgd"
lr = 1.0

[train]
batch_size = 1
num_evaluation_batches = 1

[train.data]
max_megabytes = 0.3

[train.model]
preset = "tiny"

[local]
learners = 2
min_step_s = 0.3
spare = false
"""
PLAN = """
run = "small.toml"
minutes = 0.3

[[fault]]
at_s = 1
kind = "cut"
who = "island-0"
for_s = 2

[[fault]]
at_s = 2
kind = "kill"
who = "island-1"

[[fault]]
at_s = 5
kind = "nan"

[[fault]]
at_s = 6
kind = "kill_syncer"

[[fault]]
at_s = 12
kind = "disk_full"
for_s = 2
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(RUN)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def chaos(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "atoll", "chaos", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT / "src")),
    )


@pytest.mark.heavy
def test_a_small_storm_heals_and_its_report_says_so(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = chaos(str(plan), "--dir", str(folder), "--json")
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    report = json.loads(out.strip().splitlines()[-1])
    assert report["faults"] == report["healed"] == 5 and report["left_out"] == {}
    assert report["verified"] and report["ledger_balanced"] and not report["believed_lies"]
    assert set(report["kinds"]) == {"kill", "kill_syncer", "cut", "disk_full", "nan"}
    assert report["refused"]["non_finite"] >= 1
    assert 0 < report["goodput"] <= 1.05 and 0 < report["participation"] <= 1
    kill = next(each for each in report["struck"] if each["kind"] == "kill")
    assert 0 <= kill["notice_s"] < kill["restart_s"] < kill["heal_s"] + 5
    assert json.loads((folder / "chaos.json").read_text()) == report
    lines = [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("healed") == 5
    assert processes_of(folder) == []


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_ctrl_c_in_a_storm_leaves_nothing_behind(plan: Path, tmp_path: Path) -> None:
    plan.write_text(PLAN.replace('kind = "kill"\nwho', 'kind = "freeze"\nfor_s = 10\nwho'))
    folder = tmp_path / "run"
    process = chaos(str(plan), "--dir", str(folder))
    until_s, timeline = time.monotonic() + LIMIT_S, folder / "timeline.jsonl"
    while not timeline.exists() or '"kind": "freeze"' not in timeline.read_text():
        assert process.poll() is None and time.monotonic() < until_s
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert processes_of(folder) == []


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["chaos", *arguments]) == 2
    return capsys.readouterr().err


def test_a_run_file_without_storm_names_the_fix(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "add --storm" in error_of(capsys, str(plan.parent / "small.toml"))


def test_a_plan_with_storm_names_the_fix(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "take out --storm" in error_of(capsys, str(plan), "--storm")


def test_steps_without_a_pace_are_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plan.parent / "small.toml").write_text(RUN.replace("min_step_s = 0.3", ""))
    folder = str(plan.parent / "run")
    assert "steps have to be paced" in error_of(capsys, str(plan), "--dir", folder)


def test_an_unknown_fault_names_the_nearest(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(PLAN.replace('"kill"', '"kil"'))
    assert "did you mean 'kill'" in error_of(capsys, str(plan))


def test_nothing_is_overwritten(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dir" in error_of(capsys, str(plan), "--dir", str(plan.parent))


def test_a_learner_that_is_not_there_is_named(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.write_text(PLAN.replace("island-1", "island-7"))
    assert "island-7" in error_of(capsys, str(plan), "--dir", str(plan.parent / "run"))
