"""A run in progress, for people: one line that moves, and incidents above it as they happen."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from atoll.launch.local import Incident
from atoll.launch.local import Progress as RunProgress
from atoll.launch.report import Fault, Report


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

    def show(self, progress: RunProgress, incidents: list[Incident]) -> None:
        """How it stands now."""
        for each in incidents[self._seen :]:
            self.console.print(f"[yellow]{each.at_s:6.1f} s[/]  {each.name} {each.what}")
        self._seen = len(incidents)
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.share,
            detail=_detail(progress),
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _detail(progress: RunProgress) -> str:
    status = progress.status
    coordinator = status.get("coordinator", {})
    if not coordinator:
        return str(status.get("waiting", "waiting for the syncer"))
    merges = 0
    for shard in status.get("shards", {}).values():
        merges += int(shard["tally"]["merges"])
    text = (
        f"{coordinator['registered']} registered, {coordinator['live']} live  "
        f"{merges} merges  {progress.trained / 1000:.0f}k tokens"
    )
    if progress.loss == progress.loss:
        text += f"  published loss {progress.loss:.3f}"
    waiting = status.get("waiting", "")
    return f"{text}  [yellow]{waiting}[/]" if waiting else text


def show_report(console: Console, report: Report) -> None:
    """The report as a table."""
    table = Table(title=f"run '{report.run}'", title_justify="left", show_header=False)
    ratio = 2 * report.bytes_data_parallel / max(1, report.bytes_up + report.bytes_down)
    rows = [
        ("held-out loss", f"{report.loss_first:.3f} -> {report.loss_last:.3f} nats per token"),
        ("data", report.data),
        ("goodput", f"{report.goodput:.1%} of learner time went into merged steps"),
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
