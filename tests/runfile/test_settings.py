"""Run files: every one in the project is complete, and mistakes name their fix."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from atoll.core.settings import SettingsError
from atoll.runfile.settings import parse, read_run_file, to_plain, write_resolved
from atoll.runfile.toml import dump

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("configs/*.toml"), ROOT / "src/atoll/cli/demo.toml"])
SMALL = {"run": {"run": "x", "budget_tokens": 100}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_run_file_is_complete_and_survives_being_resolved(path: Path, tmp_path: Path) -> None:
    run = read_run_file(path)
    write_resolved(tmp_path / "run.toml", run)
    assert read_run_file(tmp_path / "run.toml") == run


def test_there_are_run_files() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize(
    ("tables", "fix"),
    [
        ({"protcol": {}}, "did you mean 'protocol'"),
        ({"protocol": {"gama": 1}}, "did you mean 'gamma'"),
        ({"train": {"modle": {}}}, "did you mean 'model'"),
        ({"train": {"model": {"dimm": 4}}}, "did you mean 'dim'"),
        ({"train": {"model": {"preset": "huge"}}}, "micro, small, tiny"),
        ({"train": {"seed": 4}}, "the top of the file"),
        ({"protocol": {"K": 9}}, "set K to 3 or less"),
        ({"local": {"learners": 0}}, "1 or more"),
        ({"uplink": "int3"}, "bf16"),
    ],
)
def test_a_mistake_names_its_fix(tables: dict[str, object], fix: str) -> None:
    with pytest.raises(SettingsError, match=fix):
        parse({**SMALL, **tables})


def test_learners_started_here_are_the_learners_expected() -> None:
    assert parse({**SMALL, "local": {"learners": 5}}).syncer.protocol.M == 5


def test_a_run_file_that_is_not_there_says_where_to_find_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="configs/"):
        read_run_file(tmp_path / "none.toml")


def test_toml_that_was_written_is_read_back() -> None:
    table = {"a": 1, "b": [1.5, 2.0], "c": 'it\'s "so"', "d": {"e": True, "f": {"g": float("inf")}}}
    assert tomllib.loads(dump(table)) == table
    assert parse(to_plain(parse(SMALL))) == parse(SMALL)
