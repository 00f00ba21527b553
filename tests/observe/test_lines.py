"""Figures on a disk that fills: lines are lost, which is said once, and nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atoll.cli.learner import _Lines
from atoll.observe.lines import Lines
from atoll.observe.sinks import ObserveSettings, Sinks, Subject
from full_disk import no_room

FULL = Path("/dev/full")


def numbers_in(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_lines_come_again_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(tmp_path / "metrics.jsonl")
    lines.add({"n": 0})
    for n in (1, 2):
        with no_room():
            lines.add({"n": n})
    assert len(caplog.records) == 1 and "metrics.jsonl" in caplog.text
    lines.add({"n": 3})
    assert numbers_in(lines.path) == [0, 3]


def test_a_learner_trains_on_where_its_lines_have_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with FULL.open("w", buffering=1) as out:
        monkeypatch.setattr("sys.stdout", out)
        lines = _Lines(FULL, as_json=True)
        for step in range(3):
            lines.write({"step": step})
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            out.close()
    assert caplog.text.count("/dev/full") == 1


def test_figures_without_room_are_no_error(tmp_path: Path) -> None:
    settings = ObserveSettings(tensorboard=False)
    sinks = Sinks(settings, Subject("reef", tmp_path, {}), FULL)
    sinks.write(1, {"loss": 1.0})
    sinks.close()


def test_a_sink_that_finds_no_room_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Writer:
        def add_scalar(self, name: str, value: float, tokens: int) -> None:
            FULL.write_text(name)

        def close(self) -> None:
            FULL.write_text("the end")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard" or None)
    sinks = Sinks(ObserveSettings(), Subject("reef", tmp_path, {}), tmp_path / "published.jsonl")
    sinks._events = Writer()
    sinks.write(1, {"loss": 1.0})
    sinks.close()
    assert caplog.text.count("figures are lost") == 2
