"""A run under faults, for people: faults as they happen and heal, and the report as a table."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from atoll.chaos.campaign import Campaign
from atoll.chaos.report import ChaosReport, KindFigures, Spread
from atoll.launch.local import Progress as RunProgress


class ChaosDisplay:
    """Context manager; `show` at every look."""

    def __init__(self, campaign: Campaign) -> None:
        self.console = Console(stderr=True)
        self._campaign = campaign
        self._seen = 0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("starting", total=60 * campaign.minutes, detail="")

    def show(self, progress: RunProgress) -> list[dict[str, Any]]:
        """How it stands now; what is new comes back for machines."""
        campaign = self._campaign
        lines: list[dict[str, Any]] = []
        for at_s, who, what in campaign.events[self._seen :]:
            name, colour = who.lstrip("+"), _colour(what)
            self.console.print(f"[{colour}]{at_s:7.1f} s[/]  {name}: {escape(what)}")
            lines.append({"event": "chaos", "at_s": round(at_s, 2), "who": name, "what": what})
        self._seen = len(campaign.events)
        storm = "storm" if campaign.faults else "without faults"
        self._bar.update(
            self._task,
            description=storm if campaign.begun_s >= 0 else "starting",
            completed=max(0.0, campaign.storm_s),
            detail=_detail(campaign, progress),
        )
        return lines

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _colour(what: str) -> str:
    if what.startswith("healed"):
        return "green"
    return "yellow" if what.startswith("was ") else "red"


def _detail(campaign: Campaign, progress: RunProgress) -> str:
    coordinator = progress.status.get("coordinator", {})
    if not coordinator:
        return f"{progress.running} of {campaign.run_file.local.learners} learners running"
    struck = campaign.watch.struck
    healed = len([1 for each in struck if each.is_healed])
    text = f"{coordinator['live']} of {campaign.run_file.local.learners} live"
    if campaign.faults:
        text += f"  {healed} of {len(struck)} faults healed ({len(campaign.faults)} planned)"
    if campaign.census.counts["merges"]:
        text += f"  participation {campaign.census.participation:.1%}"
    return text


def show_chaos(console: Console, report: ChaosReport) -> None:
    """The report as two tables."""
    console.print(_faults(report))
    console.print(_figures(report))


def _faults(report: ChaosReport) -> Table:
    title = f"{report.faults} faults in {report.minutes:g} minutes, seed {report.seed}"
    table = Table(title=title, title_justify="left")
    table.add_column("fault")
    for name in ("number", "healed", "noticed", *AFTER):
        table.add_column(name, justify="right")
    for name, kind in report.kinds.items():
        table.add_row(name, *_cells(kind))
    return table


def _cells(kind: KindFigures) -> list[str]:
    spreads = [_spread(each) for each in (kind.notice, kind.heal, kind.heal_after_lift)]
    return [str(kind.faults), str(kind.healed), str(kind.noticed), *spreads]


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median_s:.1f} s (most {spread.longest_s:.1f})"


def _figures(report: ChaosReport) -> Table:
    table = Table(title=f"run '{report.run}'", title_justify="left")
    table.add_column("")
    table.add_column("with faults", justify="right")
    without = report.baseline
    columns = [report] if without is None else [report, without]
    if without is not None:
        table.add_column("without", justify="right")
    for name, of in ROWS:
        table.add_row(name, *(of(each) for each in columns))
    if report.kills is not None:
        kills = report.kills
        text = f"{kills.restart_s:.1f} s to restart, {kills.lost_s:.1f} s of work lost"
        if kills.restarts_seen < kills.kills:
            text += f" ({kills.restarts_seen} of {kills.kills} restarts seen)"
        table.add_row("a kill costs", text)
        table.add_row("so goodput should be", f"{kills.goodput_from_costs:.2%} by kills alone")
    return table


def _lost(report: ChaosReport) -> str:
    return "\n".join(f"{group} {share:.2%}" for group, share in report.lost.items())


def _dropped(report: ChaosReport) -> str:
    total = max(1, report.tokens_trained)
    texts = [f"{why} {count / total:.2%}" for why, count in report.tokens_not_merged.items()]
    return "\n".join(texts) or "none"


def _left_out(report: ChaosReport) -> str:
    return "\n".join(f"{kind} {count}" for kind, count in report.left_out.items()) or "none"


AFTER = ("noticed after", "healed after", "after it was over")
ROWS: list[tuple[str, Any]] = [
    ("goodput", lambda r: f"{r.goodput:.2%}"),
    ("goodput at the set pace", lambda r: f"{r.goodput_at_pace:.2%}"),
    ("lost around faults", _lost),
    ("participation", lambda r: f"{r.participation:.1%}"),
    ("merges", lambda r: f"{r.merges:,}"),
    ("held-out loss", lambda r: f"{r.loss_first:.3f} -> {r.loss_last:.3f}"),
    ("tokens trained", lambda r: f"{r.tokens_trained:,}"),
    ("of these not merged", _dropped),
    ("processes restarted", lambda r: str(r.restarts)),
    ("lies believed", lambda r: str(r.believed_lies)),
    ("faults left out", _left_out),
    ("faults after the plan's end", lambda r: str(r.faults_late)),
    ("ledger", lambda r: "balanced" if r.ledger_balanced else "NOT BALANCED"),
    ("tapes", lambda r: "verified" if r.verified else f"FAILED: {', '.join(r.checks_failed)}"),
]
