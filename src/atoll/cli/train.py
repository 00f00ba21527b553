"""`atoll train`: a whole run on this machine: syncer, learners, a look at the published model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from atoll.cli.display import RunDisplay, show_report
from atoll.cli.output import page, print_json
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.report import Report
from atoll.launch.session import Session
from atoll.runfile.changes import differences
from atoll.runfile.settings import RunFile, read_run_file


def train(
    run_file: Annotated[Path, typer.Argument(help="The run file; `configs/` has some.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Run folder; runs/NAME when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, the report last.")] = False,
) -> None:
    """Train on this machine: start a syncer and learners, and start again what dies.

    Ctrl-C and SIGTERM stop in order, and the same command goes on where it was. Ends with a
    report.
    """
    run = read_run_file(run_file)
    report = run_here(run, directory or Path("runs") / run.name, as_json)
    finish(report, as_json)


def run_here(
    run: RunFile,
    directory: Path,
    as_json: bool,
    disturb: Callable[[Session], None] = lambda _: None,
) -> Report:
    """Run it to its end, showing how it stands."""
    folder, asked = RunFolder(directory), run
    run, new = folder.prepare(run if folder.run_file.exists() else with_leases(run))
    _say_what_stays(asked, run, folder)
    if folder.report.exists():
        print("this run has ended; this is its report. --dir names another folder", file=sys.stderr)
        return Report.read(folder.report)
    session = Session(folder, run, new, disturb)
    with _stopped_by_sigterm(), RunDisplay() as display:
        for progress in session.run():
            display.show(progress, session.local.incidents)
            if as_json:
                state = {"event": "progress", "phase": progress.phase, "share": progress.share}
                print_json({**state, "trained": progress.trained, "running": progress.running})
        display.show(session.local.progress, session.local.incidents)
    return session.report()


def _say_what_stays(asked: RunFile, run: RunFile, folder: RunFolder) -> None:
    """A run goes on with what its learners began with, whatever the run file says now."""
    for change in differences(run, asked, ("train", "local")):
        print(
            f"{change.key} stays {change.old!r}, as this run began, and is not {change.new!r}: "
            f"{folder.run_file} holds what counts, and another --dir begins another run",
            file=sys.stderr,
        )


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM stops in order, as Ctrl-C does; a second one changes nothing."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(report: Report, as_json: bool) -> None:
    """Show the report; exit code 1 when something in it is not as it must be."""
    if as_json:
        print_json(asdict(report))
    else:
        show_report(page(), report)
    if not (report.verified and report.ledger_balanced and report.healed == report.faults):
        raise typer.Exit(1)
