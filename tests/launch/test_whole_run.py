"""Whole runs of real processes on the loopback: to the end, interrupted, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leftovers import processes_of

SRC = Path(__file__).resolve().parents[2] / "src"
LIMIT_S = 240.0

RUN = """
uplink = "int8"
seed = 3

[run]
run = "small"
budget_tokens = {budget}
last_round_s = 5.0

[protocol]
P = 4
H = 4

[merge]
downlink_codec = "int8"

[service]
tape_payloads = {payloads}

[outer]
kind = "sgd"
lr = 1.0

[train]
batch_size = 4
num_evaluation_batches = 2

[train.data]
max_megabytes = 0.5

[train.model]
preset = "tiny"

[local]
learners = 2
min_step_s = 0.05
"""


def atoll(*arguments: str) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "atoll", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(SRC)),
    )


def answer(*arguments: str, status: int = 0) -> dict[str, object]:
    """The last line of JSON that a command prints."""
    process = atoll(*arguments)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, err
    document = json.loads(out.strip().splitlines()[-1])
    assert isinstance(document, dict)
    return document


def run_file(folder: Path, budget: int, payloads: str = "false") -> Path:
    path = folder / "small.toml"
    path.write_text(RUN.format(budget=budget, payloads=payloads))
    return path


def spares_of(run_dir: Path) -> list[int]:
    """Those of them that wait to become a learner."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in processes_of(run_dir)}
    return [pid for pid, path in commands.items() if b"atoll.cli.spare" in path.read_bytes()]


def wait_until(what: str, is_so: object) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < until_s, f"waited too long until {what}"
        time.sleep(0.1)


def has_stepped(run_dir: Path) -> bool:
    """One learner is enough: on a busy machine it may have trained much before the other came."""
    files = run_dir.glob("learners/*/metrics.jsonl")
    return any(path.read_text().count("step_s") >= 4 for path in files)


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


def test_a_run_trains_to_its_end_and_its_report_is_true(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    file = run_file(tmp_path, 60_000, payloads="true")
    report = answer("train", str(file), "--dir", str(run_dir), "--json")
    assert report["loss_last"] < report["loss_first"] - 1.0  # type: ignore[operator]
    assert report["tokens_trained"] >= 60_000  # type: ignore[operator]
    assert report["ledger_balanced"] and report["verified"] and report["faults"] == 0
    assert json.loads((run_dir / "report.json").read_text()) == report
    verdict = answer("verify", str(run_dir), "--json")
    assert verdict["ok"] and len(verdict["checks"]) > 10  # type: ignore[arg-type]
    replayed = answer("replay", str(run_dir), "--json")
    assert replayed["equal"] and replayed["events"] > 100  # type: ignore[operator]
    assert replayed["merges"] == replayed["versions_recomputed"] > 10  # type: ignore[operator]
    assert replayed["merges"] == report["merges"]
    assert processes_of(run_dir) == []


@needs_proc
def test_ctrl_c_leaves_nothing_behind_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run_dir, file = tmp_path / "run", run_file(tmp_path, 200_000)
    process = atoll("train", str(file), "--dir", str(run_dir))
    wait_until("a learner steps", lambda: has_stepped(run_dir))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert processes_of(run_dir) == []
    report = answer("train", str(file), "--dir", str(run_dir), "--json")
    assert report["verified"], report
    assert report["tokens_trained"] >= 200_000  # type: ignore[operator]


@needs_proc
@pytest.mark.heavy
def test_a_killed_parent_takes_its_children_with_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = atoll("train", str(run_file(tmp_path, 10_000_000)), "--dir", str(run_dir))
    wait_until("a learner steps", lambda: has_stepped(run_dir))
    wait_until("there is a spare", lambda: spares_of(run_dir))
    process.kill()
    process.communicate(timeout=LIMIT_S)
    wait_until("every child has gone", lambda: not processes_of(run_dir))


def test_a_mistake_in_the_run_file_is_one_line_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(RUN.format(budget=1000, payloads="false").replace("H = 4", "H = 2"))
    process = atoll("train", str(path))
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "set P to 2 or less" in err and "Traceback" not in err
