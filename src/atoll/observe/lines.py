"""Figures as lines of JSON at the end of a file.

Must never raise for a disk that takes none: they are for people to look at, and training goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from atoll.store.text import append_line

log = logging.getLogger("atoll.observe")


class Lines:
    """`add` a line for each record. What the disk does not take is lost, and said once."""

    def __init__(self, path: Path):
        self.path = path
        self._is_lost = False

    def add(self, record: Mapping[str, object]) -> None:
        """One more line."""
        try:
            append_line(self.path, json.dumps(record))
        except OSError as error:
            if not self._is_lost:
                log.warning("no lines in %s until its disk takes them: %s", self.path, error)
            self._is_lost = True
        else:
            self._is_lost = False
