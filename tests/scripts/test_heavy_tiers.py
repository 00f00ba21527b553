"""Which heavy tests a change calls for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "heavy_tiers.py"
spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
assert spec is not None
assert spec.loader is not None
heavy_tiers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(heavy_tiers)


def lines(monkeypatch, capsys, changed):
    files = ["tests/simulator/test_swarm.py", "tests/merge/test_speed.py", "tests/test_whole.py"]
    monkeypatch.setattr(heavy_tiers, "heavy_files", lambda: files)
    monkeypatch.setattr(heavy_tiers, "changed_paths", lambda: changed)
    assert heavy_tiers.main() == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert all(len(row) == 3 for row in rows)
    return {row[1]: row[0] for row in rows}


def test_a_change_in_one_package_calls_for_its_tests_and_those_of_the_whole(monkeypatch, capsys):
    verdicts = lines(monkeypatch, capsys, ["src/atoll/merge/codecs.py"])
    assert verdicts == {"simulator": "leave", "merge": "run", "whole-system": "run"}


def test_a_change_in_the_core_calls_for_all(monkeypatch, capsys):
    verdicts = lines(monkeypatch, capsys, ["src/atoll/core/shard.py"])
    assert set(verdicts.values()) == {"run"}


def test_a_change_in_words_calls_for_none(monkeypatch, capsys):
    verdicts = lines(monkeypatch, capsys, ["docs/concepts.md", "README.md"])
    assert set(verdicts.values()) == {"leave"}


def test_nothing_is_left_out_when_it_is_unknown_what_changed(monkeypatch, capsys):
    assert set(lines(monkeypatch, capsys, None).values()) == {"run"}
