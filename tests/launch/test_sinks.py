"""Where figures go: JSON lines, real TensorBoard events, and a real W&B run without a network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from atoll.core.settings import SettingsError
from atoll.observe.sinks import ObserveSettings, SinkError, Sinks, Subject
from atoll.runfile.settings import parse

SECRET = "a-secret-of-the-run"
FIGURES = {"loss": 2.5, "tokens_per_s": 100.0}


def sinks_of(folder: Path, settings: ObserveSettings) -> Sinks:
    (folder / "keys").mkdir()
    (folder / "keys" / "secret").write_text(SECRET)
    subject = Subject("reef", folder, {"train": {"batch_size": 4}})
    return Sinks(settings, subject, folder / "published.jsonl")


def write_two(sinks: Sinks) -> None:
    for tokens in (1000, 2000):
        sinks.write(tokens, FIGURES)
    sinks.close()


def test_a_line_for_each_look(tmp_path: Path) -> None:
    write_two(sinks_of(tmp_path, ObserveSettings(tensorboard=False)))
    lines = [json.loads(line) for line in (tmp_path / "published.jsonl").read_text().splitlines()]
    assert lines == [{"tokens": tokens, **FIGURES} for tokens in (1000, 2000)]
    assert not (tmp_path / "tensorboard").exists()


def test_a_tool_that_is_asked_for_and_not_here_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name)
    )
    with pytest.raises(SinkError, match=r"atoll\[wandb\]"):
        sinks_of(tmp_path, ObserveSettings(wandb="offline"))


def test_the_run_file_says_which_tools() -> None:
    plain = {"run": {"run": "reef", "budget_tokens": 1}, "protocol": {"P": 2, "H": 2}}
    assert parse(plain).observe == ObserveSettings()
    assert parse({**plain, "observe": {"wandb": "offline"}}).observe.wandb == "offline"
    with pytest.raises(SettingsError, match="wandb"):
        parse({**plain, "observe": {"wandb": "on"}})


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write_two(sinks_of(tmp_path, ObserveSettings()))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    found = [(each.step, each.value) for each in read.Scalars("published/loss")]
    assert found == [(1000, 2.5), (2000, 2.5)]


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_an_offline_run_of_wandb_holds_the_figures_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    write_two(sinks_of(tmp_path, ObserveSettings(tensorboard=False, wandb="offline")))
    assert "wandb" in sys.modules
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (records,) = run.glob("run-*.wandb")
    data = records.read_bytes()
    assert b"published/loss" in data and b"batch_size" in data
    for path in (tmp_path / "wandb").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
