"""`atoll simulate goodput`, `grid`, `scavenge` and `mixed`: documents, exit codes, mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from atoll.cli import main
from atoll.cli.simulate import chips_charts, goodput, grid, mixed, scavenge
from atoll.simulator.chips.goodput import measure
from atoll.simulator.chips.grid import CHIPS, PUBLISHED, ROWS, cells
from atoll.simulator.chips.mixed import Mix
from atoll.simulator.chips.settings import SYSTEMS, ChipRun

PNG = b"\x89PNG"


def run(*arguments: str) -> int:
    try:
        return main(["simulate", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_goodput_says_all_shares_with_their_errors(
    capsys: pytest.CaptureFixture[str], system: str
) -> None:
    found = document(
        capsys,
        "goodput",
        "--system",
        system,
        "--chips",
        "1.2M",
        "--learners",
        "2",
        "--days",
        "0.02",
    )
    assert found["command"] == "simulate goodput"
    for share in ("goodput", "uptime", "participation"):
        assert 0 <= found[share] <= 1
        assert found[f"{share}_se"] >= 0
    assert (found["merges"] > 0) == (system not in ("none", "elastic"))
    assert found["failures"] > 20
    assert found["settings"] == {
        "system": system,
        "chips": 1_200_000,
        "learners": 2,
        "mtbi_years": 1.0,
        "days": 0.02,
        "seed": 0,
        "fragments": 8,
        "overlap_steps": 2,
        "H": 24,
    }


def test_the_same_seed_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("goodput", "--learners", "2", "--days", "0.02", "--seed", "5")
    assert document(capsys, *arguments) == document(capsys, *arguments)


def test_goodput_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("goodput", "--system", "elastic", "--days", "1") == 0
    words = capsys.readouterr().out
    assert "one elastic job, 1,200,000 chips" in words
    assert "lost to pauses" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("goodput", "--system", "sync"), "choose one of none, elastic, diloco, streaming"),
        (("goodput", "--chips", "-5"), "--chips '-5' is no number"),
        (("goodput", "--chips", "many"), "--chips 'many' is no number"),
        (("goodput", "--learners", "0"), "learners = 0"),
        (("goodput", "--chips", "4", "--learners", "8"), "set learners to 4 or less"),
        (("goodput", "--mtbi-years", "-1"), "mtbi_years = -1.0"),
        (("goodput", "--days", "nan"), "days = nan"),
        (("goodput", "--fragments", "5"), "fragments = 5 must divide H = 24"),
        (("grid", "--days", "-1"), "days = -1.0"),
        (("scavenge", "--extra", "-0.5"), "extra = -0.5"),
        (("mixed", "--learners", "3"), "learners = 3 must be even"),
    ],
)
def test_mistakes_end_with_2_and_the_fix(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err
    assert run(*arguments, "--json") == 2
    assert words in json.loads(capsys.readouterr().out)["error"]["message"]


def test_no_number_at_all_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("goodput", "--learners", "eight") == 2
    assert "--learners" in capsys.readouterr().err


def test_mixed_and_scavenge_say_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "mixed", "--learners", "2", "--slower", "0.5")
    assert set(found["rules"]) == {"all", "one", "grace"}
    assert found["published_goodput"] == {}, "nothing was published for this mix"
    assert found["rules"]["all"]["goodput"] == pytest.approx(1 / 1.5, abs=0.02)
    found = document(capsys, "scavenge", "--extra", "0")
    assert found["training_time"] == found["ideal"] == 1.0
    assert found["results"][0]["published"] == {"decoupled": 1.0, "elastic": 1.0}


@pytest.mark.slow
def test_the_grid_has_every_cell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "grid.png"
    found = document(capsys, "grid", "--days", "0.003", "--plot", str(plot))
    assert len(found["cells"]) == len(ROWS) * len(CHIPS)
    known = [cell for cell in found["cells"] if "published" in cell]
    assert len(known) == len(PUBLISHED) == found["num_published"]
    for cell in known:
        assert cell["difference"] == pytest.approx(cell["goodput"] - cell["published"])
    assert found["worst_difference"] == max(abs(cell["difference"]) for cell in known)
    assert plot.read_bytes().startswith(PNG)


def test_charts_are_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = measure(ChipRun("elastic", days=0.1))
    chips_charts.draw_goodput(result, tmp_path / "goodput.png")
    chips_charts.draw_mixed(Mix(), [], tmp_path / "mixed.svg")
    assert (tmp_path / "goodput.png").read_bytes().startswith(PNG)
    assert b"<svg" in (tmp_path / "mixed.svg").read_bytes()
    with pytest.raises(chips_charts.ChartError, match=r"name a \.png"):
        chips_charts.draw_goodput(result, tmp_path / "goodput.nonsense")


def test_a_chart_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot = str(tmp_path / "x.png")
    assert run("goodput", "--system", "none", "--days", "0.1", "--plot", plot) == 2
    assert "pip install 'atoll[plots]'" in capsys.readouterr().err


def test_first_lines_of_help_are_those_of_the_table() -> None:
    from atoll.cli.simulate import COMMANDS

    for module in (goodput, grid, mixed, scavenge):
        name = module.__name__.rpartition(".")[2]
        doc = getattr(module, name).__doc__
        assert doc.splitlines()[0] == COMMANDS[name]


def test_cells_are_told_one_by_one_with_progress() -> None:
    shares: list[float] = []
    first = next(cells(0.01, 0, shares.append))
    assert (first.row, first.chips) == (ROWS[0], CHIPS[0])
    assert 0 < max(shares) <= 1 / (len(ROWS) * len(CHIPS))
