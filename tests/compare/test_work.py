"""Trials are done once, kept whole, and taken up again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import atoll.compare.trial
from atoll.compare.methods import METHODS, trial_of
from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.compare.work import Workbench
from atoll.core.settings import SettingsError
from tiny_training import settings


def trials() -> list[Trial]:
    return [trial_of(name, settings(2)) for name in ("data-parallel", "decoupled")]


def test_a_finished_trial_is_not_done_again(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    first = list(Workbench(folder).do(trials()[:1]))
    both = list(Workbench(folder).do(trials()))
    assert [done.fresh for done in first] == [True]
    assert [done.fresh for done in both] == [False, True]
    assert both[0].result == first[0].result
    assert not list(tmp_path.glob("*.claim"))


def test_an_interrupted_trial_leaves_nothing_and_is_done_by_the_next(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    folder = ResultFolder(tmp_path)
    with pytest.raises(Stop):
        list(Workbench(folder, stop).do(trials()[:1]))
    assert list(tmp_path.iterdir()) == []
    assert [done.fresh for done in Workbench(folder).do(trials()[:1])] == [True]


def test_a_result_reads_back_with_its_settings(tmp_path: Path) -> None:
    folder, (trial, _) = ResultFolder(tmp_path), trials()
    (done,) = Workbench(folder).do([trial])
    kept = folder.find(trial)
    assert kept is not None
    assert kept.result == done.result
    assert kept.settings == trial.plain()
    json.loads(folder.file_of(trial).read_text(), parse_constant=pytest.fail)


def test_what_another_process_works_at_is_left_to_it(tmp_path: Path) -> None:
    folder, (trial, _) = ResultFolder(tmp_path), trials()
    folder.claim(trial)
    claim = next(tmp_path.glob("*.claim"))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        claim.write_text(str(other.pid))
        assert list(Workbench(folder).do([trial])) == []
    finally:
        other.communicate(b"\n", timeout=20)
    assert len(list(Workbench(folder).do([trial]))) == 1


def test_the_key_depends_on_every_setting() -> None:
    (trial, _) = trials()
    others = [
        trial.with_seed(1),
        replace(trial, method="local-step-1"),
        Trial("data-parallel", settings(2, H=16)),
        replace(trial, training=replace(trial.training, uplink="int4")),
    ]
    assert len({each.key for each in (trial, *others)}) == 5
    assert trial.key == trials()[0].key


def test_a_setting_added_later_leaves_old_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    (trial, _) = trials()
    monkeypatch.setattr(atoll.compare.trial, "ADDED", {"protocol.look_ahead": 1})
    kept = trial.key
    assert Trial("data-parallel", settings(2, look_ahead=1)).key == kept
    assert Trial("data-parallel", settings(2, look_ahead=2)).key != kept


def test_every_method_is_a_trial_and_an_unknown_one_is_refused() -> None:
    keys = {trial_of(name, settings(2)).key for name in METHODS}
    assert len(keys) == len(METHODS)
    with pytest.raises(SettingsError, match="data-parallel"):
        trial_of("nonsense", settings(2))


def test_a_claim_of_ours_from_before_is_taken_again(tmp_path: Path) -> None:
    folder, (trial, _) = ResultFolder(tmp_path), trials()
    assert folder.claim(trial)
    assert next(tmp_path.glob("*.claim")).read_text() == str(os.getpid())
    assert folder.claim(trial)
