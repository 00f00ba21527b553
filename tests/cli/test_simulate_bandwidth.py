"""`atoll simulate bandwidth`: the document, the chart, and the published figures."""

from __future__ import annotations

import json
import sys

import pytest

from atoll.cli.simulate.bandwidth import TITLES
from cli.served import command

FAST = ("--params", "100M", "--fragments", 12, "--every-steps", 12)


def bandwidth(*options: object) -> int:
    return command("simulate", "bandwidth", *options)


def test_formula_and_count_stand_side_by_side(capsys):
    assert bandwidth(*FAST, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["unit"] == "Gbit/s per link and direction"
    assert list(document["systems"]) == list(TITLES)
    for each in document["systems"].values():
        assert list(each["needed"]) == ["50", "80", "90", "95", "99"]
        for way in ("up", "down"):
            assert each["counted"][way]["average"] == pytest.approx(each[way]["average"], rel=0.1)
    lines = [row["line"] for row in document["thin_line"]]
    assert lines == sorted(lines) and all(row["stall"] < 0.02 for row in document["thin_line"])


@pytest.mark.slow
def test_the_published_pairs_are_within_ten_percent_by_formula_and_on_the_wire(capsys):
    assert bandwidth(*FAST, "--no-count", "--published", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["published"]
    chosen = [row for row in rows if row["chosen"]]
    assert [row["published"] for row in chosen] == [104, 1.7, 198, 0.84]
    for row in chosen:
        assert abs(row["difference"]) < 0.1
        if row["what"] == "decoupled":
            assert row["counted"]["up"]["average"] == pytest.approx(row["published"], rel=0.1)
        else:
            assert row["counted"]["line"] == pytest.approx(row["published"], rel=0.1)
            assert row["counted"]["utilisation"] == pytest.approx(0.95, rel=0.01)


def test_people_are_told_the_conventions(capsys):
    assert bandwidth(*FAST, "--no-count") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ring all-reduce" in said and "utilisation" in said


def test_the_chart_is_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    assert bandwidth(*FAST, "--no-count", "--plot", path) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert bandwidth(*FAST, "--no-count", "--plot", tmp_path / "chart.odd") == 2
    assert "name a .png" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bandwidth(*FAST, "--no-count", "--plot", tmp_path / "chart.png") == 2
    assert "atoll[plots]" in capsys.readouterr().err


def test_a_mistake_names_the_fix(capsys):
    assert bandwidth("--datacenters", 1) == 2
    assert "set datacenters to 2 or more" in capsys.readouterr().err
