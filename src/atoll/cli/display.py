"""A run in progress, for people: one line that moves, and incidents above it as they happen."""

from __future__ import annotations

import time
from collections import deque
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from atoll.launch.local import Incident
from atoll.launch.local import Progress as RunProgress
from atoll.launch.report import Fault, Report

PACE_S = 10.0
"""Tokens per second are of so many last seconds."""


class Pace:
    """Tokens per second of a count that is looked at now and then."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def tokens_per_s(self, now_s: float, tokens: int) -> float:
        """Over the last `PACE_S`; 0 until there are two looks."""
        looks = self._looks
        looks.append((now_s, tokens))
        while len(looks) > 2 and looks[1][0] <= now_s - PACE_S:
            looks.popleft()
        (from_s, before), took_s = looks[0], now_s - looks[0][0]
        return max(0, tokens - before) / took_s if took_s > 0 and from_s < now_s else 0.0


class RunDisplay:
    """Context manager; `show` at every look."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("starting", total=1.0, detail="")
        self._seen = 0
        self._pace = Pace()

    def show(self, progress: RunProgress, incidents: list[Incident]) -> None:
        """How it stands now."""
        for each in incidents[self._seen :]:
            self.console.print(f"[yellow]{each.at_s:6.1f} s[/]  {each.name} {each.what}")
        self._seen = len(incidents)
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.share,
            detail=detail(progress, self._pace.tokens_per_s(time.monotonic(), progress.trained)),
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def detail(progress: RunProgress, tokens_per_s: float) -> str:
    """How a run stands, in one line: who is there and merged, how fast, and what it waits for."""
    status = progress.status
    coordinator = status.get("coordinator", {})
    if not coordinator:
        return str(status.get("waiting", "waiting for the syncer"))
    merges = merged = 0
    for shard in status.get("shards", {}).values():
        merges += int(shard["tally"]["merges"])
        merged += int(shard["tally"]["learners_merged"])
    counts = status.get("counts", {})
    text = (
        f"{coordinator['registered']} registered, {coordinator['live']} live, "
        f"{merged / max(1, merges):.1f} merged a round  {merges} merges  "
        f"{progress.trained / 1000:.0f}k tokens, {tokens_per_s:,.0f}/s  "
        f"{_mega(counts.get('bytes_in', 0))} up, {_mega(counts.get('bytes_out', 0))} down"
    )
    if coordinator.get("repeated_items"):
        text += f"  {coordinator['repeated_items']:,} items repeated"
    if progress.loss == progress.loss:
        text += f"  loss {progress.loss:.3f}"
    waiting = status.get("waiting", "")
    return f"{text}  [yellow]{waiting}[/]" if waiting else text


def show_report(console: Console, report: Report) -> None:
    """The report as a table."""
    table = Table(title=f"run '{report.run}'", title_justify="left", show_header=False)
    ratio = 2 * report.bytes_data_parallel / max(1, report.bytes_up + report.bytes_down)
    rows = [
        ("held-out loss", f"{report.loss_first:.3f} -> {report.loss_last:.3f} nats per token"),
        ("data", _data(report)),
        ("goodput", _goodput(report)),
        ("participation", f"{report.participation:.1%} of live learners, per round"),
        ("tokens", f"{report.tokens_merged:,} merged of {report.tokens_trained:,} trained"),
        ("merges", f"{report.merges} ({report.thin_merges} thin) in {report.seconds:.0f} s"),
        ("faults", _faults(report)),
        ("ledger", "balanced" if report.ledger_balanced else "NOT BALANCED"),
        ("tapes", "verified" if report.verified else f"FAILED: {', '.join(report.checks_failed)}"),
        ("bytes", f"{_mega(report.bytes_up)} up, {_mega(report.bytes_down)} down"),
        ("data-parallel", f"{_mega(report.bytes_data_parallel)} each way: {ratio:.0f} times more"),
        ("run folder", report.run_dir),
    ]
    for name, text in rows:
        table.add_row(name, text)
    console.print(table)


def _goodput(report: Report) -> str:
    text = f"{report.goodput:.1%} of learner time went into merged steps"
    by_design = "; steps during a merge are overwritten, by design"
    return text + by_design * (report.receipt == "overwrite")


def _data(report: Report) -> str:
    if not report.data_passes and not report.repeated_items:
        return report.data
    passes = "1 whole pass" if report.data_passes == 1 else f"{report.data_passes} whole passes"
    return f"{report.data}; {passes}, {report.repeated_items:,} items repeated"


def _faults(report: Report) -> str:
    if not report.faults:
        return "none"
    each = ", ".join(_fault(fault) for fault in report.fault_list)
    return f"{report.healed} of {report.faults} healed ({each})"


def _fault(fault: Fault) -> str:
    healed = f"merged again after {fault.heal_s:.1f} s" if fault.heal_s >= 0 else "NOT healed"
    return f"{fault.learner}: {fault.kind}, {healed}"


def _mega(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
