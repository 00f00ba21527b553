"""Kinds of data that need an extra, read with the real libraries and nothing from a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from atoll.train.data import Windows
from atoll.train.settings import DataSettings
from atoll.train.sources import load_sources

TEXTS = [f"line {number}: " + "words and more words. " * 4 for number in range(300)]


def tokens_of(kind: str, path: Path, **settings: str) -> np.ndarray:
    data = DataSettings(kind=kind, path=str(path), **settings)  # type: ignore[arg-type]
    train = load_sources(data, 16, 256).train
    assert isinstance(train, Windows) and len(train) > 100
    return np.asarray(train.tokens)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "set" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return path


def test_a_parquet_file_gives_the_tokens_of_the_same_texts(jsonl: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": TEXTS}), path, row_group_size=50)
    assert np.array_equal(tokens_of("parquet", path), tokens_of("jsonl", jsonl))


@pytest.mark.heavy
def test_a_hugging_face_data_set_gives_the_tokens_of_the_same_texts(
    jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = tokens_of("huggingface", jsonl.parent)
    assert np.array_equal(found, tokens_of("jsonl", jsonl))
