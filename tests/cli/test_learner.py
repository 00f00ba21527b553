"""`atoll learner`: its options reach `join`, which the tests of the learner try out for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll import cli
from atoll.cli import learner as command
from atoll.learner import IslandOptions, JoinError

RUN = """
[run]
run = "reef"
budget_tokens = 1000

[train.data]
max_megabytes = 0.5

[train.model]
preset = "tiny"
"""


def options_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> IslandOptions:
    """With what the command joins; it goes no further."""
    seen: list[IslandOptions] = []

    def join(*_: object, options: IslandOptions, **__: Any) -> None:
        seen.append(options)
        raise JoinError("as far as this goes")

    monkeypatch.setattr(command, "join", join)
    (tmp_path / "reef.toml").write_text(RUN)
    invite = str(tmp_path / "run.invite")
    assert cli.main(["learner", str(tmp_path / "reef.toml"), "--invite", invite, *more]) == 2
    return seen[0]


def test_links_and_checkpoint_are_as_the_command_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = options_of(tmp_path, monkeypatch)
    assert (plain.proxy, plain.max_up_mbit_s, plain.checkpoint) == ("", 0.0, None)
    metrics = ["--metrics", str(tmp_path / "ann.jsonl")]
    assert options_of(tmp_path, monkeypatch, *metrics).checkpoint == tmp_path / "ann.inner"
    link = ["--max-up-mbit-s", "80", "--proxy", "http://127.0.0.1:3128"]
    named = [*metrics, *link, "--checkpoint", str(tmp_path / "disk" / "state")]
    found = options_of(tmp_path, monkeypatch, *named)
    assert (found.proxy, found.max_up_mbit_s) == ("http://127.0.0.1:3128", 80.0)
    assert found.checkpoint == tmp_path / "disk" / "state"
