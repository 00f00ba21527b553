"""Where tokens come from: Python's own source, text, JSON lines, token files, Parquet, the Hub.

Text becomes bytes, one token each, with a zero byte after every document. Every source is read
once, in a fixed order, and split in two parts that share no document: what is held out depends on
the document (or on its place in one long file), never on the machine or a random draw.
Nothing is downloaded unless the kind is `huggingface`. Libraries of extras are imported late.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atoll.train.data import Sources, TokenArray, Windows
from atoll.train.settings import DataSettings

_DOCUMENT_END = b"\x00"
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
    # Generated tables and texts, a sixth of all bytes and unlike the code: one file of them
    # would be most of what is held out.
    | {"encodings", "pydoc_data"}
)
_BUILD_RECORDS = ("_sysconfigdata", "config-")  # differ between two builds of one version


def load_sources(settings: DataSettings, context: int, vocab_size: int) -> Sources:
    """Read the data `settings` names, cut in windows of `context` + 1 tokens below `vocab_size`."""
    train, held_out, description = _READERS[settings.kind](settings)
    return Sources(
        train=Windows(train, context, vocab_size, description),
        held_out=Windows(held_out, context, vocab_size, f"held-out part of {description}"),
    )


Parts = tuple[TokenArray, TokenArray, str]


def _read_stdlib(settings: DataSettings) -> Parts:
    """The standard library's source files, split by the hash of their path.

    By path, not content: a file stays on its side when another version of Python changes it, so
    learners with different versions do not train on each other's held-out files. In the order of
    the hash, so that a cap takes a fair sample.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(stdlib_files(root), key=lambda name: (_fraction(name.encode()), name))
    if not names:
        raise ValueError(
            f"no source files in {root}: this Python keeps its standard library elsewhere or "
            "without source; set data.kind to text and data.path to a folder of text files"
        )
    documents = ((name.encode(), (root / name).read_bytes()) for name in names)
    return _split_documents(
        documents, settings, f"standard library of Python {platform.python_version()}"
    )


def stdlib_files(root: Path) -> Iterator[str]:
    """Source files under `root`, as POSIX paths relative to it, written by people for users."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [
            name
            for name in subfolders
            if name not in _SKIPPED_FOLDERS and not name.startswith(_BUILD_RECORDS)
        ]
        for file in files:
            if file.endswith(".py") and not file.startswith(_BUILD_RECORDS):
                yield (Path(folder) / file).relative_to(root).as_posix()


def _read_text(settings: DataSettings) -> Parts:
    """Files as they are, byte by byte; the tail of the whole is held out."""
    limit = _max_bytes(settings)
    text = bytearray()
    for file in _files(settings.path, "*.txt"):
        with file.open("rb") as stream:
            text += stream.read(max(0, limit - len(text))) + _DOCUMENT_END
    return _split_tail(np.frombuffer(bytes(text[:limit]), np.uint8), settings, settings.path)


def _read_jsonl(settings: DataSettings) -> Parts:
    """One document per line, split by the hash of its text."""

    def documents() -> Iterator[str]:
        for file in _files(settings.path, "*.jsonl"):
            with file.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield _json_text(line, settings.field, f"{file}:{number}")

    return _split_documents(_keyed(documents()), settings, settings.path)


def _json_text(line: bytes, field: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{place} is not JSON ({error}); write one JSON object per line, in UTF-8"
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"{place} is not a JSON object; write one object per line")
    return _text_field(row, field, place)


def _read_tokens(settings: DataSettings) -> Parts:
    """A file of token ids without header, mapped and not read; its tail is held out."""
    file = _files(settings.path, "*.bin")[0]
    dtype = np.dtype(settings.token_dtype).newbyteorder("<")
    size_bytes = file.stat().st_size
    if size_bytes == 0 or size_bytes % dtype.itemsize:
        raise ValueError(
            f"{file} has {size_bytes} bytes, which is not a whole number of "
            f"{settings.token_dtype} tokens; set data.token_dtype, or write the file again"
        )
    return _split_tail(np.memmap(file, dtype=dtype, mode="r"), settings, str(file))


def _read_parquet(settings: DataSettings) -> Parts:
    """One document per row, split by the hash of its text."""
    parquet = _import_extra("pyarrow.parquet", "parquet")

    def documents() -> Iterator[str]:
        for path in _files(settings.path, "*.parquet"):
            with parquet.ParquetFile(path) as file:
                if settings.field not in file.schema_arrow.names:
                    raise _no_field(settings.field, file.schema_arrow.names, str(path))
                for rows in file.iter_batches(columns=[settings.field]):
                    for row in rows.to_pylist():
                        yield _text_field(row, settings.field, str(path))

    return _split_documents(_keyed(documents()), settings, settings.path)


def _read_huggingface(settings: DataSettings) -> Parts:
    """One document per row, streamed up to the cap, split by the hash of its text."""
    datasets = _import_extra("datasets", "hf")
    rows = datasets.load_dataset(
        settings.path, settings.subset or None, split=settings.split, streaming=True
    )
    place = f"data set {settings.path}"
    texts = (_text_field(row, settings.field, place) for row in rows)
    return _split_documents(_keyed(texts), settings, place)


_READERS: dict[str, Callable[[DataSettings], Parts]] = {
    "stdlib": _read_stdlib,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "tokens": _read_tokens,
    "parquet": _read_parquet,
    "huggingface": _read_huggingface,
}


def _keyed(texts: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Documents that are their own key: equal ones fall on the same side of the split."""
    for text in texts:
        content = text.encode()
        yield content, content


def _split_documents(
    documents: Iterable[tuple[bytes, bytes]], settings: DataSettings, name: str
) -> Parts:
    """Deal (key, content) pairs to the two sides, each filled up to its share of the cap."""
    held_out_limit = int(_max_bytes(settings) * settings.held_out_share)
    limits = (_max_bytes(settings) - held_out_limit, held_out_limit)
    parts = (bytearray(), bytearray())
    num_documents = 0
    for key, content in documents:
        side = int(_fraction(key) < settings.held_out_share)
        if len(parts[side]) < limits[side]:
            parts[side].extend(content + _DOCUMENT_END)
            num_documents += 1
        elif len(parts[1 - side]) >= limits[1 - side]:
            break
    train, held_out = (bytes(part[:limit]) for part, limit in zip(parts, limits, strict=True))
    digest = hashlib.sha256(train + held_out).hexdigest()[:8]
    megabytes = (len(train) + len(held_out)) / 1e6
    description = f"{name} ({num_documents} documents, {megabytes:.2f} MB, sha256 {digest})"
    return np.frombuffer(train, np.uint8), np.frombuffer(held_out, np.uint8), description


def _split_tail(tokens: TokenArray, settings: DataSettings, name: str) -> Parts:
    boundary = int(len(tokens) * (1.0 - settings.held_out_share))
    return tokens[:boundary], tokens[boundary:], f"{name} ({len(tokens):,} tokens)"


def _fraction(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key).digest()[:6], "big") / 2**48


def _max_bytes(settings: DataSettings) -> int:
    return int(settings.max_megabytes * 1e6)


def _files(path: str, pattern: str) -> list[Path]:
    """The file at `path`, or the files under it, in the order of their names."""
    root = Path(path)
    if not root.exists():
        raise ValueError(f"{path} does not exist; set data.path to a file or folder that does")
    found = sorted(root.rglob(pattern)) if root.is_dir() else [root]
    if not found:
        raise ValueError(f"no {pattern} in {path}; set data.path to the file itself")
    return found


def _text_field(row: dict[str, Any], field: str, place: str) -> str:
    if field not in row:
        raise _no_field(field, list(row), place)
    text = row[field]
    if not isinstance(text, str):
        raise ValueError(
            f"{place}: {field!r} holds {type(text).__name__}, not text; set data.field to a field "
            "of text, or write token ids to a file and use kind tokens"
        )
    return text


def _no_field(field: str, known: list[str], place: str) -> ValueError:
    return ValueError(
        f"{place} has no field {field!r}; set data.field to one of {', '.join(sorted(known))}"
    )


def _import_extra(module: str, extra: str) -> Any:
    """A library that only this kind of data needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"this kind of data needs {module.partition('.')[0]}, which could not be imported "
            f"({error}): pip install 'atoll[{extra}]'"
        ) from error
