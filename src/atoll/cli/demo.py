"""`atoll demo`: three learners train, one is killed half-way, the run heals and says so."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.train import finish, run_here
from atoll.launch.session import Session
from atoll.runfile.settings import read_run_file

KILL_AT = 0.45
VICTIM = "island-1"


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Run folder; a new one below runs/ by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, the report last.")] = False,
) -> None:
    """Train on three learners, kill one with SIGKILL half-way, and watch the run heal.

    Real processes on real sockets with durable state, on this machine alone. Ends with a report:
    loss, goodput, participation, ledger, and bytes beside what data-parallel would have sent.
    """
    run = read_run_file(Path(str(resources.files("atoll.cli") / "demo.toml")))
    folder = directory or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    finish(run_here(run, folder, as_json, _kill_one), as_json)


def _kill_one(session: Session) -> None:
    """Once, when enough of the budget is trained."""
    if not session.killed and session.local.progress.share >= KILL_AT:
        session.kill(VICTIM)
