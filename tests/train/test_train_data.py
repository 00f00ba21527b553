"""Windows, and every source of tokens: what is read, what is held out, what errors say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from atoll.train.data import Sources, Windows, load_batch
from atoll.train.settings import DataSettings
from atoll.train.sources import load_sources, stdlib_files


def documents_of(windows: object) -> set[bytes]:
    assert isinstance(windows, Windows)
    return set(bytes(windows.tokens).split(b"\x00")) - {b""}


def load(context: int = 8, vocab_size: int = 256, **settings: Any) -> Sources:
    return load_sources(DataSettings(**settings), context, vocab_size)


def test_windows_do_not_overlap_and_targets_are_one_on() -> None:
    windows = Windows(np.arange(23, dtype=np.uint8), 4, 256, "counting")
    assert len(windows) == 4
    inputs, targets = windows.window(1)
    assert inputs.tolist() == [5, 6, 7, 8]
    assert targets.tolist() == [6, 7, 8, 9]
    with pytest.raises(IndexError, match="there are 4"):
        windows.window(4)


def test_batches_stack_windows_in_the_order_asked() -> None:
    windows = Windows(np.arange(20, dtype=np.uint8), 4, 256, "counting")
    batch = load_batch(windows, [2, 0])
    assert batch.inputs.tolist() == [[10, 11, 12, 13], [0, 1, 2, 3]]
    assert batch.targets.tolist() == [[11, 12, 13, 14], [1, 2, 3, 4]]
    assert batch.inputs.dtype == torch.int64


def test_a_token_beyond_the_vocabulary_is_named() -> None:
    windows = Windows(np.array([1, 2, 300], dtype=np.uint16), 2, 256, "ids.bin")
    with pytest.raises(ValueError, match=r"ids.bin.*token 300.*vocab_size is 256"):
        windows.window(0)


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="less than one window"):
        Windows(np.arange(4, dtype=np.uint8), 4, 256, "short")


def test_stdlib_parts_are_disjoint_and_reproducible() -> None:
    first, again = load(max_megabytes=1.0), load(max_megabytes=1.0)
    assert isinstance(first.train, Windows)
    assert isinstance(again.train, Windows)
    assert np.array_equal(first.train.tokens, again.train.tokens)
    assert not documents_of(first.train) & documents_of(first.held_out)
    total = len(first.train.tokens) + len(first.held_out.tokens)  # type: ignore[attr-defined]
    assert 900_000 < total <= 1_000_000
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"Python {version}" in first.train.description
    assert first.held_out.description.startswith("held-out part of standard library of Python")


def test_stdlib_takes_source_only(tmp_path: Path) -> None:
    for name in (
        "b.py",
        "a/c.py",
        "a/data.txt",
        "test/t.py",
        "a/tests/t.py",
        "site-packages/s.py",
        "encodings/table.py",
        "config-3.11-linux/c.py",
        "a/__pycache__/c.py",
        "_sysconfigdata_linux.py",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert sorted(stdlib_files(tmp_path)) == ["a/c.py", "b.py"]


def test_stdlib_without_source_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    with pytest.raises(ValueError, match=r"set data\.kind to text"):
        load()


def test_text_holds_out_its_tail(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"b" * 100)
    (tmp_path / "a.txt").write_bytes(b"a" * 98)
    sources = load(kind="text", path=str(tmp_path), held_out_share=0.25)
    assert isinstance(sources.train, Windows)
    assert isinstance(sources.held_out, Windows)
    assert bytes(sources.train.tokens) == b"a" * 98 + b"\0" + b"b" * 51
    assert bytes(sources.held_out.tokens) == b"b" * 49 + b"\0"


def test_text_is_capped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 5000)
    sources = load(kind="text", path=str(tmp_path / "a.txt"), max_megabytes=0.001)
    total = len(sources.train.tokens) + len(sources.held_out.tokens)  # type: ignore[attr-defined]
    assert total == 1000


def test_jsonl_holds_out_whole_documents_and_equal_ones_together(tmp_path: Path) -> None:
    texts = [f"document {number % 100}" for number in range(200)]
    lines = "\n".join(json.dumps({"id": 1, "body": text}) for text in texts)
    (tmp_path / "a.jsonl").write_text(lines + "\n\n")
    sources = load(kind="jsonl", path=str(tmp_path), field="body", held_out_share=0.3)
    train, held_out = documents_of(sources.train), documents_of(sources.held_out)
    assert not train & held_out
    assert train | held_out == {text.encode() for text in texts}
    assert 15 <= len(held_out) <= 45


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a.jsonl:1 is not JSON"),
        ("[1]", r"a.jsonl:1 is not a JSON object"),
        ('{"body": "x", "id": 1}', r"a.jsonl:1 has no field 'text'.*one of body, id"),
        ('{"text": 5}', r"a.jsonl:1: 'text' holds int"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        load(kind="jsonl", path=str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_tokens_are_mapped_and_not_read(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "ids.bin"
    np.arange(1000, dtype=dtype).tofile(path)
    sources = load(
        kind="tokens", path=str(path), token_dtype=dtype, vocab_size=1000, held_out_share=0.1
    )
    assert isinstance(sources.train, Windows)
    assert isinstance(sources.train.tokens, np.memmap)
    assert sources.train.window(1)[0].tolist() == list(range(9, 17))
    assert sources.held_out.window(0)[0].tolist() == list(range(900, 908))


def test_a_torn_token_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"ids.bin has 3 bytes.*set data.token_dtype"):
        load(kind="tokens", path=str(tmp_path / "ids.bin"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load(kind="text", path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"no \*.jsonl in"):
        load(kind="jsonl", path=str(tmp_path))


@pytest.mark.parametrize(("kind", "extra"), [("parquet", "parquet"), ("huggingface", "hf")])
def test_a_missing_library_names_the_extra(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'atoll\[{extra}\]'"):
        load(kind=kind, path="somewhere")


def test_huggingface_is_streamed_only_up_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    rows_read: list[int] = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(10**9):
            rows_read.append(number)
            yield {"text": f"document {number}"}

    def load_dataset(*args: Any, **kwargs: Any) -> Iterator[dict[str, str]]:
        asked.append((args, kwargs))
        return rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    sources = load(
        kind="huggingface", path="a/b", split="validation", max_megabytes=0.01, held_out_share=0.2
    )
    assert asked == [(("a/b", None), {"split": "validation", "streaming": True})]
    assert len(rows_read) < 5000
    assert not documents_of(sources.train) & documents_of(sources.held_out)


def test_parquet_reads_a_column_of_text(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    texts = [f"document {number}" for number in range(100)]
    parquet.write_table(arrow.table({"body": texts}), tmp_path / "a.parquet")
    sources = load(kind="parquet", path=str(tmp_path), field="body", held_out_share=0.3)
    read = documents_of(sources.train) | documents_of(sources.held_out)
    assert read == {text.encode() for text in texts}
    with pytest.raises(ValueError, match=r"a.parquet has no field 'text'.*one of body"):
        load(kind="parquet", path=str(tmp_path))
