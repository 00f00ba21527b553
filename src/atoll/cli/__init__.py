"""The command line: `atoll <command>`. One file per command, loaded only when it is called.

A group of commands, such as `simulate`, is a package with a table of its own.

To add a command `watch`, write `atoll/cli/watch.py` with a function `watch` whose parameters are
`Annotated[..., typer.Option(...)]`, and add its line to `COMMANDS`. The file may import what it
likes at its top: `atoll --help` shows the line from the table and loads no command, hence no torch.

What every command keeps:

* Exit code 0 only on success, 1 when the command ran and the answer is no, 2 for a mistake of the
  user's, 130 after Ctrl-C.
* A mistake of the user's, or of the world around, is an exception class of ours whose message names
  the fix, or that has the fix as an attribute `fix`. It is printed here without a traceback. All
  else, failed assertions too, is a mistake of ours and keeps its traceback.
* `--json`: standard output holds one JSON document and nothing else; a command that reports while
  it runs writes one document per line, the result last. A user's mistake is
  `{"error": {"kind", "message", "fix"}}`. Progress and words for people go to standard error.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from atoll import __version__
from atoll.cli.output import print_json, print_mistake

COMMANDS: Final[dict[str, str]] = {
    "demo": "Train on three learners, kill one with SIGKILL half-way, and watch the run heal.",
    "init": "Make a run file, certificates and an invite for a run over several places.",
    "train": "Train on this machine: start a syncer and learners, and start again what dies.",
    "syncer": "Run the syncer of a run. The first time, begin the run and write its invite.",
    "learner": "Train as one island of a run, until the run is over.",
    "chaos": "Train while processes are killed, links cut and disks filled: does it heal?",
    "watch": "Show how a run stands: phase, progress, learners, merges, and what it waits for.",
    "compare": "Train with several methods side by side: loss, time, bytes, goodput.",
    "export": "Write the published parameters as safetensors, in a folder that transformers loads.",
    "verify": "Check a run's tapes: nothing merged twice, nothing seen too early, and more.",
    "replay": "Feed a run's recorded events to this version's cores and compare every decision.",
    "plan": "Recommend settings for a run over several places, with reasons, cost and goodput.",
    "doctor": "Say whether this machine is ready to train, merge and talk to the others.",
}
"""Every command and its line in `atoll --help`, in the order of the help."""

GROUPS: Final[dict[str, str]] = {
    "simulate": "Try a set-up in virtual time: goodput, bandwidth, loss under failures.",
}
"""Commands that have commands of their own, in `atoll/cli/<group>/`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: the edge of the process, where errors become words and exit codes."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        build_app(arguments)(args=arguments, prog_name="atoll")
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the edge of the process: ours are told, all others raised again
        if not is_users_mistake(error):
            raise
        fix = str(getattr(error, "fix", ""))
        if "--json" in arguments:
            kind = type(error).__name__
            print_json({"error": {"kind": kind, "message": str(error), "fix": fix}})
        else:
            print_mistake(str(error), fix)
        return 2
    return 0


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application with the commands that are named loaded, the others as a line of help."""
    app = _new_app("Train one model over islands of compute that come and go.")
    app.callback()(_options)
    named = next((each for each in arguments if each in COMMANDS or each in GROUPS), "")
    _add_commands(app, "atoll.cli", COMMANDS, named)
    for name, line in GROUPS.items():
        group = _new_app(line)
        table: dict[str, str] = importlib.import_module(f"atoll.cli.{name}").COMMANDS
        rest = arguments[arguments.index(name) + 1 :] if name == named else []
        _add_commands(group, f"atoll.cli.{name}", table, next((a for a in rest if a in table), ""))
        app.add_typer(group, name=name, short_help=line)
    return app


def _new_app(line: str) -> typer.Typer:
    return typer.Typer(
        help=line, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


def _add_commands(app: typer.Typer, package: str, table: dict[str, str], named: str) -> None:
    """The command that is named loaded, the others as a line of help."""
    for name, line in table.items():
        function = load(package, name) if name == named else _not_loaded
        app.command(name, short_help=line, help=_help_of(function))(function)


def _help_of(function: Callable[..., Any]) -> str:
    """A docstring for a terminal of any width: one line a paragraph, brackets as they stand."""
    text = inspect.getdoc(function) or ""
    return escape(re.sub(r"(?<!\n)\n(?!\n)", " ", text))


def load(package: str, name: str) -> Callable[..., Any]:
    """The function behind a command."""
    function = name.replace("-", "_")
    command: Callable[..., Any] = getattr(
        importlib.import_module(f"{package}.{function}"), function
    )
    return command


def is_users_mistake(error: Exception) -> bool:
    """Whether the error is of a class of ours, so its message was written for the user."""
    ours = type(error).__module__.partition(".")[0] == "atoll"
    return ours and not isinstance(error, AssertionError)


def _not_loaded() -> None:
    raise AssertionError("a command runs only when it is named, and then it is loaded")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atoll {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of `atoll` itself."""
