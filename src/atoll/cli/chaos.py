"""`atoll chaos`: a run on this machine, faults on purpose, and whether it healed from all."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from atoll.chaos.campaign import Campaign
from atoll.chaos.picture import draw, has_plots
from atoll.chaos.plan import Plan, StormSettings, is_plan, read_plan
from atoll.chaos.report import ChaosReport, report_of
from atoll.chaos.storm import faults_of
from atoll.cli.chaos_display import ChaosDisplay, show_chaos
from atoll.cli.output import page, print_json
from atoll.core.settings import SettingsError
from atoll.runfile.settings import RunFile, read_run_file


def chaos(
    plan: Annotated[Path, typer.Argument(help="A plan of faults; or a run file, with --storm.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Run folder; runs/NAME-chaos when not given.")
    ] = None,
    storm: Annotated[bool, typer.Option("--storm", help="The argument is a run file.")] = False,
    faults_per_hour: Annotated[
        float | None, typer.Option(help="Faults of the storm; 125 when not given.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="How long; the plan's, or 10.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the storm; the plan's, or 0.")] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Before it, run as long without faults.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, the report last.")] = False,
) -> None:
    """Train while processes are killed, links cut and disks filled: does it heal?

    Real processes, signals and sockets; needs no root. Writes timeline.jsonl, chaos.json and, with
    the `plots` extra, timeline.png into the run folder. Exit code 0 only when every fault was done
    and healed, no lie was believed, the ledger balances and the tapes verify. The same seed, the
    same faults.
    """
    chosen, run = _chosen(plan, storm, faults_per_hour)
    if minutes is not None:
        chosen = replace(chosen, minutes=minutes)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    folder = directory or Path("runs") / f"{run.name}-chaos"
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} holds something already: name another folder with --dir")
    report = both(chosen, run, folder, baseline, as_json)
    if as_json:
        print_json(report.plain())
    else:
        show_chaos(page(), report)
    if not report.is_good:
        print(f"not good: {'; '.join(report.shortcomings)}", file=sys.stderr)
        raise typer.Exit(1)


def both(
    plan: Plan, run: RunFile, folder: Path, baseline: bool, as_json: bool = False
) -> ChaosReport:
    """The run under faults; before it, where a baseline is wanted, the one without."""
    learners = [f"island-{number}" for number in range(run.local.learners)]
    faults = faults_of(plan, learners)
    if not baseline:
        return run_campaign(Campaign(folder, run, faults, plan.minutes), plan.seed, as_json)
    quiet = Campaign(folder / "without-faults", run, [], plan.minutes)
    without = run_campaign(quiet, plan.seed, as_json)
    campaign = Campaign(folder / "storm", run, faults, plan.minutes)
    return run_campaign(campaign, plan.seed, as_json, without)


def run_campaign(
    campaign: Campaign, seed: int, as_json: bool = False, baseline: ChaosReport | None = None
) -> ChaosReport:
    """Run it, showing how it stands, and report; the picture too where it can be drawn."""
    folder = campaign.root
    with ChaosDisplay(campaign) as display, closing(campaign.run()) as looks:
        for progress in looks:
            for line in display.show(progress):
                if as_json:
                    print_json(line)
    print("reading the tapes", file=sys.stderr)
    report = report_of(campaign, seed, baseline)
    if has_plots():
        draw(campaign, report, folder / "timeline.png")
    return report


def _chosen(path: Path, storm: bool, faults_per_hour: float | None) -> tuple[Plan, RunFile]:
    """The plan, and the run that it is for."""
    if not is_plan(path):
        if not storm:
            raise SettingsError(f"{path} is a run file: add --storm, or name a plan of faults")
        settings = StormSettings(faults_per_hour or 125.0)
        return Plan(str(path), storm=settings), read_run_file(path)
    if storm or faults_per_hour is not None:
        raise SettingsError(
            f"{path} is a plan and says which faults there are: take out --storm and "
            "--faults-per-hour, or name a run file"
        )
    plan = read_plan(path)
    return plan, read_run_file(path.parent / plan.run)
