"""How data is leased when the run file does not say so, and what a resumed run may change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.core.settings import SettingsError
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases, with_leases_or_why
from atoll.runfile.settings import RunFile, parse
from atoll.train.sources import load_sources


def run_of(text: Path, **tables: dict[str, object]) -> RunFile:
    plain: dict[str, object] = {
        "run": {"run": "small", "budget_tokens": 1000},
        "train": {"data": {"kind": "text", "path": str(text)}, "model": {"preset": "tiny"}},
        "protocol": {"P": 4, "H": 4},
    }
    for name, table in tables.items():
        plain[name] = {**plain.get(name, {}), **table}  # type: ignore[dict-item]
    return parse(plain)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a sentence of some words. " * 2000)
    return path


def test_the_items_are_those_that_a_learner_counts(text: Path) -> None:
    run = with_leases(run_of(text))
    train = run.train
    sources = load_sources(train.data, train.model.context, train.model.vocab_size)
    assert run.syncer.run.dataset_items == len(sources.train) > 0
    assert run.syncer.run.lease_items % train.batch_size == 0


def test_leases_can_be_turned_off_or_be_given(text: Path) -> None:
    data = {"kind": "text", "path": str(text), "leases": False}
    off = run_of(text, train={"data": data})
    assert with_leases(off) == off and off.syncer.run.dataset_items == 0
    given = run_of(text, run={"dataset_items": 77, "lease_items": 7})
    assert with_leases(given) == given


def test_a_place_without_the_data_goes_without_leases_and_says_how_to_have_them(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path / "elsewhere")
    same, why = with_leases_or_why(run)
    assert same == run and "elsewhere does not exist" in why and "dataset_items" in why


def test_a_resumed_run_keeps_its_leases_and_takes_what_the_process_may_keep(
    text: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    begun, new = folder.prepare(with_leases(run_of(text)))
    assert new
    text.write_text("the data is another one now")
    again, new = folder.prepare(run_of(text, service={"keep_snapshots": 5, "port": 1}))
    assert not new and again.syncer.run == begun.syncer.run
    service = replace(begun.syncer.service, keep_snapshots=5)
    assert again.syncer.service == service, "where it listens was told to learners"
    written = json.loads(folder.syncer_settings.read_text())
    assert written["service"]["keep_snapshots"] == 5
    assert folder.prepare(again) == (again, False)
    with pytest.raises(SettingsError, match="other settings"):
        folder.prepare(run_of(text, run={"budget_tokens": 999}))
