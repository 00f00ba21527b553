"""The edge of the process: what becomes of mistakes, of ours and of the user's, and of Ctrl-C."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Annotated

import pytest
import typer

import atoll
from atoll import cli


class RunFileError(ValueError):
    """A mistake of the user's, with its fix beside it."""

    __module__ = "atoll.runfile"
    fix = "write steps = 100"


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> int:
    """Call a command that raises this error."""

    def fails(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "fails", "Fails.")
    monkeypatch.setattr(cli, "load", lambda package, name: fails)
    try:
        return cli.main(["fails", *options])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def test_a_mistake_of_the_users_is_one_line_and_the_fix(monkeypatch, capsys):
    assert run(monkeypatch, RunFileError("steps is\n missing")) == 2
    written = capsys.readouterr()
    assert written.err == "atoll: steps is missing\n  fix: write steps = 100\n"
    assert written.out == ""


def test_a_mistake_of_the_users_is_a_document_under_json(monkeypatch, capsys):
    assert run(monkeypatch, RunFileError("steps is missing"), "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {
        "kind": "RunFileError",
        "message": "steps is missing",
        "fix": "write steps = 100",
    }


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    with pytest.raises(ValueError, match="too many values"):
        run(monkeypatch, ValueError("too many values to unpack"))
    with pytest.raises(AssertionError):
        run(monkeypatch, AssertionError())


def test_ctrl_c_ends_with_130(monkeypatch):
    assert run(monkeypatch, KeyboardInterrupt()) == 130


def test_an_unknown_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["doctr"])
    assert end.value.code == 2
    assert "doctor" in capsys.readouterr().err


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"atoll {atoll.__version__}\n"


def test_every_command_is_there_and_says_in_its_help_what_the_table_says(capsys):
    tables = {("atoll.cli",): cli.COMMANDS}
    for group in cli.GROUPS:
        tables["atoll.cli", group] = importlib.import_module(f"atoll.cli.{group}").COMMANDS
    for (*path,), table in tables.items():
        for name, line in table.items():
            command = cli.load(".".join(path), name)
            words = [*path[1:], name]
            said = (command.__doc__ or "").split("\n")[0]
            assert said == line, f"first line of {words}'s docstring"
            with pytest.raises(SystemExit) as end:
                cli.main([*words, "--help"])
            assert end.value.code == 0
            assert "--json" in capsys.readouterr().out, f"{words} has no --json"


@pytest.mark.parametrize(
    ("command", "words"), [("syncer", "[service]"), ("plan", "[[site]]"), ("replay", "[service]")]
)
def test_help_shows_what_stands_in_brackets(command, words, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert words in capsys.readouterr().out


def test_a_command_is_imported_only_when_it_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "atoll.cli.doctor", raising=False)
    cli.build_app(["--help"])
    assert "atoll.cli.doctor" not in sys.modules
    cli.build_app(["doctor"])
    assert "atoll.cli.doctor" in sys.modules


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    assert "join" in dir(importlib.import_module("atoll"))
    with pytest.raises(AttributeError, match="jion"):
        atoll.jion  # noqa: B018 - looking it up is the point
