"""`atoll verify`: the tapes of a run joined, and what must always hold checked over them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.tape import verify as verifier


def verify(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, or a folder of tapes.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Check a run's tapes: nothing merged twice, nothing seen too early, and more.

    Exit code 0 when every check holds, else 1.
    """
    report = verifier.verify(tapes_of(run_dir))
    if as_json:
        print_json({"command": "verify", **asdict(report)})
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def tapes_of(run_dir: Path) -> Path:
    """The tapes of a run folder, or the folder itself."""
    return run_dir / "tapes" if (run_dir / "tapes").is_dir() else run_dir


def _show(report: verifier.VerifyReport) -> None:
    console = page()
    table = Table(title=f"tapes of {', '.join(report.parties)}", title_justify="left")
    for heading in ("", "check", "what must hold", "found"):
        table.add_column(heading)
    for check in report.checks:
        mark = "[green]ok[/]" if check.ok else "[red]no[/]"
        table.add_row(mark, check.name.replace("_", " "), check.rule, check.detail)
    console.print(table)
    for title, lines in (("torn", report.torn), ("missing", report.missing), ("", report.notes)):
        for line in lines:
            console.print(f"{title} {line}".strip())
