"""Run files: every one in the project is complete, and mistakes name their fix."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from atoll.core.settings import SettingsError
from atoll.runfile.settings import (
    LocalSettings,
    parse,
    read_run_file,
    to_plain,
    write_resolved,
)
from atoll.runfile.toml import dump
from atoll.train.settings import DataSettings, ModelSettings, TrainSettings

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


@pytest.mark.parametrize(
    ("protocol", "outer", "merges"),
    [
        ({}, {}, 30),
        ({"H": 48}, {}, 15),
        ({"H": 6, "P": 6}, {}, 120),
        ({"P": 8, "first_H": 6}, {}, 47),
        ({"H": 48}, {"ramp_merges": 12}, 12),
        ({"H": 48}, {"kind": "sgd"}, 0),
    ],
)
def test_a_ramp_is_as_long_in_steps_whatever_h_is(
    protocol: dict[str, object], outer: dict[str, object], merges: int
) -> None:
    run = parse({**SMALL, "protocol": protocol, "outer": outer})
    assert run.syncer.merge.outer.num_ramp_merges == merges


def test_a_run_file_that_is_not_there_says_where_to_find_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="configs/"):
        read_run_file(tmp_path / "none.toml")


def test_toml_that_was_written_is_read_back() -> None:
    table = {"a": 1, "b": [1.5, 2.0], "c": 'it\'s "so"', "d": {"e": True, "f": {"g": float("inf")}}}
    assert tomllib.loads(dump(table)) == table
    assert parse(to_plain(parse(SMALL))) == parse(SMALL)


def test_a_resolved_run_file_has_every_setting() -> None:
    plain = to_plain(parse(SMALL))
    given = {"run": "x", "budget_tokens": 100}
    for table, kind in (("model", ModelSettings), ("data", DataSettings)):
        assert plain["train"][table] == asdict(kind())
    assert plain["train"]["batch_size"] == TrainSettings().batch_size
    assert set(plain["local"]) == {each.name for each in fields(LocalSettings)}
    assert given.items() <= plain["run"].items() and "lease_s" in plain["run"]


def test_the_page_of_settings_has_every_key_with_its_default() -> None:
    heading, page = "", {}
    for line in (ROOT / "docs/settings.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("#` []") + "."
        elif line.startswith("| `"):
            _, key, default, _ = line.split("|", maxsplit=3)
            page[heading.replace("At the top.", "") + key.strip(" `")] = default.strip(" `")
    known = dict(_flat(to_plain(parse(SMALL))))
    del known["run.fragment_sizes"]  # worked out from the layout
    assert page.keys() == known.keys()
    told = {key: tomllib.loads(f"x = {value}")["x"] for key, value in page.items() if value}
    assert page.keys() - told.keys() == {"run.run", "run.budget_tokens"}
    assert told == {key: known[key] for key in told}


def _flat(tables: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, list(value) if isinstance(value, tuple) else value
