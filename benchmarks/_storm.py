"""What the storms have in common: the runs, how busy the machine was, and where results go."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _common import machine, processor, write_results
from _growth import Growth
from _lagoon import busy_cores_s

from atoll.chaos.campaign import Campaign
from atoll.chaos.plan import Plan, StormSettings, read_plan
from atoll.chaos.report import ChaosReport
from atoll.chaos.storm import faults_of
from atoll.cli.chaos import run_campaign
from atoll.runfile.settings import RunFile, read_run_file

ROOT = Path(__file__).resolve().parents[1]
BUSY = 0.60
"""With more of all cores in use, the machine is what is measured."""
STORMS = ROOT / "configs" / "storms"
PICTURES = ROOT / "docs" / "pictures"
WITHOUT = "without_faults"


def options(what: str, minutes: float) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--minutes", type=float, default=minutes, help="how long each run lasts")
    parser.add_argument("--dir", type=Path, help="keep the run folders here")
    parser.add_argument("--no-picture", action="store_true", help="leave docs/pictures as it is")
    return parser.parse_args()


class Busy:
    """How much of all cores was used while the storm lasted; every look asks."""

    def __init__(self) -> None:
        self._first = self._last = (0.0, 0.0)

    def look(self, campaign: Campaign) -> None:
        now = (campaign.now_s, busy_cores_s())
        if 0 <= campaign.storm_s <= 60 * campaign.minutes:
            self._last = now
            if not self._first[0]:
                self._first = now

    def share(self, cores: int) -> float:
        seconds = self._last[0] - self._first[0]
        return round((self._last[1] - self._first[1]) / max(1e-9, seconds * cores), 3)


@dataclass(frozen=True)
class Ran:
    """What came of a campaign, how busy all cores were, and what grew."""

    report: ChaosReport
    busy: float
    growth: dict[str, Any]


class Storms:
    """Runs in one folder, which goes when it was not asked for."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._kept = asked.dir is not None
        self.folder = Path(asked.dir or tempfile.mkdtemp(prefix="atoll-storm-"))
        self.busy: dict[str, float] = {}
        self.good: dict[str, bool] = {}
        self.growth: dict[str, dict[str, Any]] = {}

    def run(
        self, name: str, plan: Plan, run: RunFile, baseline: ChaosReport | None = None
    ) -> ChaosReport:
        """One campaign; the one named `WITHOUT` leaves the plan's faults out."""
        return self._keep(name, campaign_of(self._folder_of(name), plan, run, baseline))

    def run_at_once(self, storms: Mapping[str, Plan], run: RunFile) -> dict[str, ChaosReport]:
        """Several campaigns at the same time, on the same machine; each has its own log."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(storms), mp_context=context) as pool:
            under_way = {
                name: pool.submit(_logged_campaign, self._folder_of(name), plan, run)
                for name, plan in storms.items()
            }
            return {name: self._keep(name, each.result()) for name, each in under_way.items()}

    def _keep(self, name: str, ran: Ran) -> ChaosReport:
        self.busy[name], self.good[name] = ran.busy, ran.report.is_good
        self.growth[name] = ran.growth
        return ran.report

    @property
    def at_ease(self) -> bool:
        """No run had a machine that was too busy."""
        return max(self.busy.values()) <= BUSY

    def _folder_of(self, name: str) -> Path:
        return self.folder / name

    def picture(self, name: str, to: str) -> None:
        drawn = self._folder_of(name) / "timeline.png"
        if drawn.exists():
            PICTURES.mkdir(parents=True, exist_ok=True)
            shutil.copy(drawn, PICTURES / to)

    def close(self) -> None:
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)


def campaign_of(folder: Path, plan: Plan, run: RunFile, baseline: ChaosReport | None = None) -> Ran:
    """One campaign, watched."""
    names = [f"island-{number}" for number in range(run.local.learners)]
    faults = [] if folder.name == WITHOUT else faults_of(plan, names)
    busy, growth = Busy(), Growth()

    def look(campaign: Campaign) -> None:
        busy.look(campaign)
        growth.look(campaign)

    campaign = Campaign(folder, run, faults, plan.minutes, look)
    report = run_campaign(campaign, plan.seed, baseline=baseline)
    return Ran(report, busy.share(machine()["cores"]), growth.report())


def _logged_campaign(folder: Path, plan: Plan, run: RunFile) -> Ran:
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder.name}: under way, see {log}", flush=True)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return campaign_of(folder, plan, run)


def plan_of(name: str, minutes: float) -> tuple[Plan, RunFile]:
    """A plan of `configs/storms` and its run, so long."""
    plan = replace(read_plan(STORMS / name), minutes=minutes)
    return plan, read_run_file(STORMS / plan.run)


def only(plan: Plan, mix: dict[str, float]) -> Plan:
    """The same storm of some kinds."""
    storm = plan.storm or StormSettings()
    return replace(plan, storm=replace(storm, mix=mix))


def figures(report: ChaosReport) -> dict[str, Any]:
    """Without the list of faults and without what it was compared with."""
    plain = report.plain()
    for key in ("struck", "baseline", "run_dir"):
        del plain[key]
    return plain


def write(name: str, report: dict[str, Any]) -> None:
    write_results(name, processor().split("@")[0], {"machine": machine(), **report})
