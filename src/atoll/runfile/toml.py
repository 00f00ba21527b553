"""Writing TOML: plain tables of numbers, words, switches and lists. Reading is `tomllib`'s."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dump(table: Mapping[str, Any], prefix: str = "") -> str:
    """The text of a table; single values first, then one section for each table in it."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        if _is_table(value):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", dump(value, f"{name}.").rstrip()]
    return "\n".join(lines).strip() + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    raise TypeError(f"TOML has no word for {type(value).__name__}")
