"""Where two run files differ, by the names under which their settings stand in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.runfile.settings import RunFile, to_plain


@dataclass(frozen=True, slots=True)
class Change:
    """One setting with another value; `key` is its name with its tables, as in `train.model.d`."""

    key: str
    old: object
    new: object


def differences(old: RunFile, new: RunFile, tables: Sequence[str]) -> list[Change]:
    """The settings in these tables that differ, in their order in the file."""
    before, after = to_plain(old), to_plain(new)
    return [each for table in tables for each in _within(before[table], after[table], table)]


def _within(old: Any, new: Any, key: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(each for each in new if each not in old)]:
            yield from _within(old.get(name), new.get(name), f"{key}.{name}")
    elif old != new:
        yield Change(key, old, new)
