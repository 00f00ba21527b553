"""Text files on a disk that fills: what stood there stays, and nothing is half there."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.store.text import append_line, write_whole
from full_disk import no_room


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_whole(path, "one\n")
    with pytest.raises(OSError, match="too large"), no_room():
        write_whole(path, "two\n")
    assert path.read_text() == "one\n" and list(tmp_path.iterdir()) == [path]
    write_whole(path, "two\n")
    assert path.read_text() == "two\n" and list(tmp_path.iterdir()) == [path]


def test_a_line_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with pytest.raises(OSError, match="too large"), no_room():
        append_line(path, "two")
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_a_line_does_not_go_on_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\nto")
    append_line(path, "three")
    assert path.read_text() == "one\nto\nthree\n"
