"""What the soak calls growing: of processes that lived long, each over its own life."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HOUR_S = 3600.0


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("_growth")
    sys.modules.pop("_growth")


def looks(first_s: float, last_s: float, **per_hour: float) -> list[tuple[float, dict[str, float]]]:
    """Of a process that uses so much more of something each hour."""
    times = [first_s + 10.0 * n for n in range(int((last_s - first_s) / 10) + 1)]
    return [
        (
            at_s,
            {
                "rss_mb": 300.0 + per_hour.get("rss_mb", 0.0) * (at_s - first_s) / HOUR_S,
                "descriptors": 20.0 + per_hour.get("descriptors", 0.0) * (at_s - first_s) / HOUR_S,
                "threads": 9.0,
            },
        )
        for at_s in times
    ]


def run_of(growth: Any, *lives: Any, lasted_s: float = HOUR_S, files: float = 0.0) -> Any:
    """A run in which these lived, with so many more files of the state each hour."""
    times = [10.0 * n for n in range(int(lasted_s / 10) + 1)]
    flat = [(at_s, 12.0) for at_s in times]
    state = [(at_s, 20.0 + files * at_s / HOUR_S) for at_s in times]
    return growth.Growth(dict(enumerate(lives)), flat, state)


def broken(report: dict[str, Any]) -> list[str]:
    return [name for name, is_met in report["limits"].items() if not is_met]


def test_a_leak_of_the_one_that_lives_is_seen(growth: Any) -> None:
    life = growth.Life("learner", "island-0", looks(0, HOUR_S, descriptors=3.0))
    report = run_of(growth, life).report()
    assert report["long_lives"] == [
        {"name": "island-0", "minutes": 60.0, "rss_mb": 0.0, "descriptors": 3.0, "threads": 0.0}
    ]
    assert broken(report) == ["descriptors of island-0 at most 2 more per hour"]
    assert not growth.is_kept(report)


def test_what_does_not_grow_is_within_all_limits(growth: Any) -> None:
    life = growth.Life("syncer", "syncer", looks(0, HOUR_S, rss_mb=19.0))
    report = run_of(growth, life).report()
    assert len(report["limits"]) == 5 and growth.is_kept(report)
    more = growth.Life("syncer", "syncer", looks(0, HOUR_S, rss_mb=21.0))
    assert not growth.is_kept(run_of(growth, more).report())


def test_memory_that_is_taken_in_the_first_quarter_alone_is_no_leak(growth: Any) -> None:
    early = looks(0, 800, rss_mb=400.0)
    last = early[-1][1]
    life = growth.Life("syncer", "syncer", [*early, *((810.0 + 10 * n, last) for n in range(280))])
    report = run_of(growth, life).report()
    assert report["long_lives"][0]["rss_mb"] == 0.0 and growth.is_kept(report)


def test_the_launcher_may_take_notes_and_nothing_else(growth: Any) -> None:
    life = growth.Life("launcher", "launcher", looks(0, HOUR_S, rss_mb=90.0, descriptors=3.0))
    report = run_of(growth, life).report()
    assert report["long_lives"][0]["rss_mb"] == 90.0
    assert broken(report) == ["descriptors of launcher at most 2 more per hour"]


def test_short_lives_are_shown_by_role_and_not_judged(growth: Any) -> None:
    first = growth.Life("learner", "island-1", looks(0, 900))
    second = growth.Life("learner", "island-1", looks(910, 1900, descriptors=40.0))
    report = run_of(growth, first, second).report()
    assert report["long_lives"] == []
    used = report["roles"]["learner"]["descriptors"]
    assert used["first_quarter"] == 20.0 and used["last_quarter"] > 25.0


def test_files_of_the_state_that_pile_up_are_seen(growth: Any) -> None:
    assert broken(run_of(growth, files=40.0).report()) == ["files of the state at most 2 more"]


def test_a_run_that_was_too_short_is_not_judged(growth: Any) -> None:
    life = growth.Life("syncer", "syncer", looks(0, 600, descriptors=100.0))
    report = run_of(growth, life, lasted_s=600.0).report()
    assert report["limits"] == {} and growth.is_kept(report)
