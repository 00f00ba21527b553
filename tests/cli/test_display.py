"""What `atoll train` shows while a run goes on, and the rows of its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from atoll.cli.display import Pace, detail, show_report
from atoll.launch.local import Progress
from atoll.launch.report import Figures, Report, build_report

STATUS: dict[str, Any] = {
    "waiting": "1 of the 2 learners that a merge needs are live",
    "coordinator": {"registered": 3, "live": 2, "trained": 250_000, "budget": 10**6},
    "shards": {
        "0": {"tally": {"merges": 4, "thin": 1, "learners_merged": 10, "learners_live": 12}}
    },
    "counts": {"bytes_in": 2_500_000, "bytes_out": 1_000_000},
}


def test_the_line_says_who_is_there_and_merged_how_fast_and_what_it_waits_for() -> None:
    text = detail(Progress(status=STATUS, loss=2.5), 1234.4)
    for words in (
        "3 registered, 2 live, 2.5 merged a round  4 merges",
        "250k tokens, 1,234/s",
        "2.5 MB up, 1.0 MB down",
        "loss 2.500",
        "1 of the 2 learners that a merge needs are live",
    ):
        assert words in text
    assert "repeated" not in text
    repeated = {**STATUS, "coordinator": {**STATUS["coordinator"], "repeated_items": 1200}}
    assert "1,200 items repeated" in detail(Progress(status=repeated), 0.0)
    assert detail(Progress(status={"waiting": "no learner yet"}), 0.0) == "no learner yet"


def test_tokens_per_second_are_those_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.tokens_per_s(0.0, 0) == 0.0
    assert pace.tokens_per_s(5.0, 500) == 100.0
    for second in range(6, 40):
        found = pace.tokens_per_s(float(second), 500)
    assert found == 0.0


def report_of(run_dir: Path, coordinator: dict[str, int]) -> Report:
    (run_dir / "tapes").mkdir(exist_ok=True)
    status = {"coordinator": coordinator, "shards": {}, "counts": {}}
    figures = Figures(
        run="small",
        run_dir=run_dir,
        seconds=10.0,
        learners=2,
        loss_first=5.0,
        loss_last=4.0,
        parameters=100,
        data="text",
        status=status,
    )
    return build_report(figures, [])


def test_repeats_of_lost_learners_and_of_learners_without_a_lease_are_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.launch.report.verify", lambda _: _Verdict())
    path = tmp_path / "learners" / "a" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    lives = [[0, 4, 4], [0, 2, 3]]
    lines = []
    for life in lives:
        lines.append(json.dumps({"event": "joined"}))
        lines += [json.dumps({"step_s": 0.5, "repeated_items": count}) for count in life]
    path.write_text("\n".join([*lines, '{"torn']))
    report = report_of(tmp_path, {"repeated_items": 10, "data_pass": 1, "trained": 1, "merged": 1})
    assert (report.repeated_items, report.data_passes) == (17, 1)
    console = Console(width=140)
    with console.capture() as capture:
        show_report(console, report)
        show_report(console, replace(report, repeated_items=0, data_passes=0))
    assert capture.get().count("1 whole pass, 17 items repeated") == 1


class _Verdict:
    ok = True
    failed: tuple[str, ...] = ()
