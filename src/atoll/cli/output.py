"""How every command speaks: JSON for machines on standard output, words for people beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console

PAGE_COLUMNS: Final = 110


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document on a line of its own. Not-a-number and infinity are refused."""
    print(json.dumps(document, allow_nan=False), flush=True)


def print_mistake(message: str, fix: str) -> None:
    """Write a mistake of the user's, and the fix where it is not in the message already."""
    one_line = " ".join(message.split())
    print(f"atoll: {one_line}", file=sys.stderr)
    if fix:
        print(f"  fix: {fix}", file=sys.stderr)


def page() -> Console:
    """Standard output for people; in a file or a pipe tables have room, whatever the default is."""
    there = Console()
    return there if there.is_terminal else Console(width=max(PAGE_COLUMNS, there.width))
