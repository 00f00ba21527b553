"""`atoll replay`: the recorded events once more, held against the recorded decisions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.output import print_json
from atoll.cli.verify import tapes_of
from atoll.tape import replay as player


def replay(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, or a folder of tapes.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Feed a run's recorded events to this version's cores and compare every decision.

    Exit code 0 when all are equal, else 1.
    """
    report = player.replay(tapes_of(run_dir))
    if as_json:
        print_json({"command": "replay", **asdict(report)})
    else:
        verdict = "equal" if report.equal else "DIFFERENT"
        print(
            f"{verdict}: {report.events} events and {report.effects} effects of "
            f"{report.parties} parties, {report.state_checks} states"
        )
        for line in (report.first_difference, *report.torn, *report.notes):
            if line:
                print(f"  {line}")
    if not report.equal:
        raise typer.Exit(1)
