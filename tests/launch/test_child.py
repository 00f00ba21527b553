"""When a process is started again, after which pause, and when it is given up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from atoll.launch import child as module
from atoll.launch.child import Child

LIMIT_S = 20.0


def one_life(child: Child) -> float:
    """Start it, wait for its end; the pause before the next start."""
    child.start()
    end_s = time.monotonic() + LIMIT_S
    while child.died() is None:
        assert time.monotonic() < end_s
        time.sleep(0.005)
    return child.again_at_s - time.monotonic()


def shell(tmp_path: Path, script: str) -> Child:
    return Child("reef", ["/bin/sh", "-c", script], tmp_path / "reef.log")


def test_pauses_grow_while_lives_are_short_and_begin_anew_after_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = shell(tmp_path, "exit 1")
    pauses = [one_life(child) for _ in range(4)]
    for pause_s, expected_s in zip(pauses, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert pause_s == pytest.approx(expected_s, abs=0.4)
    monkeypatch.setattr(module, "HEALTHY_S", 0.0)
    assert one_life(child) <= 0.0, "killed after a good life, it is back at once"
    monkeypatch.setattr(module, "HEALTHY_S", 10.0)
    assert one_life(child) == pytest.approx(0.5, abs=0.4)


def test_a_users_mistake_is_said_at_once_with_its_fix(tmp_path: Path) -> None:
    script = "echo noise; echo 'atoll: the model does not fit' >&2; echo '  fix: set P' >&2; exit 2"
    child = shell(tmp_path, script)
    one_life(child)
    said = child.hopeless(20)
    assert said.startswith("reef cannot run: the model does not fit   fix: set P (see ")
    child.starts = 2
    assert child.hopeless(20) == "", "it has run before: this may pass"


def test_who_never_had_a_good_life_is_given_up_after_three(tmp_path: Path) -> None:
    child = shell(tmp_path, "echo out of memory >&2; exit 1")
    for _ in range(2):
        one_life(child)
        assert child.hopeless(20) == ""
    one_life(child)
    assert "ended 3 times before it had run for 10 s: out of memory" in child.hopeless(20)


def test_being_killed_is_nobodys_fault_until_it_happens_too_often(tmp_path: Path) -> None:
    child = shell(tmp_path, "kill -9 $$")
    for _ in range(4):
        one_life(child)
        assert child.status == -9
        assert child.hopeless(4) == ""
    one_life(child)
    assert "died 5 times within 10 minutes, and [local] restarts = 4" in child.hopeless(4)


def test_deaths_of_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEALTHY_S", 0.0)
    child = shell(tmp_path, "kill -9 $$")
    for _ in range(3):
        one_life(child)
    assert child.hopeless(2)
    monkeypatch.setattr(module, "WINDOW_S", 0.0)
    one_life(child)
    assert child.hopeless(2) == ""
