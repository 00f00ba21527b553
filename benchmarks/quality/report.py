"""docs/quality.md and its charts from the stored results: tables with paired differences.

    python benchmarks/quality/report.py

Writes what is between the marks of docs/quality.md anew, and the charts into docs/pictures/. A
table whose trials are not all there shows the rows that are, with their number of seeds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from sweeps import NotSwept
from table import Table
from tables import AVERAGED, TABLES

from atoll.compare.charts import COLOURS, draw, pyplot
from atoll.compare.statistics import half_interval, mean, paired_difference
from atoll.compare.store import ResultFolder
from atoll.compare.table import Row, megabytes, rows
from atoll.simulator.training import TrainingResult

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
PAGE = ROOT / "docs" / "quality.md"
PICTURES = ROOT / "docs" / "pictures"
SEEDS = range(20)
CHARTS = {
    "headline": "Loss against trained tokens and against virtual time",
    "learners": "Loss above data-parallel over the number of learners",
}
"""Tables with a chart, and the chart in words."""

Results = Mapping[str, Mapping[int, TrainingResult]]


def main() -> int:
    """Write every table that has something in it."""
    folder = ResultFolder(RESULTS)
    page = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        mark = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(page):
            print(f"{name}: docs/quality.md has no place for it", file=sys.stderr)
            continue
        text = _text(folder, name)
        page = mark.sub(lambda found, text=text: found[1] + text + found[2], page)
    PAGE.write_text(page, encoding="utf-8")
    _charts(folder, PICTURES)
    return 0


def results_of(folder: ResultFolder, table: Table) -> dict[str, dict[int, TrainingResult]]:
    """What is stored of a table, by row and seed."""
    found: dict[str, dict[int, TrainingResult]] = {}
    for label, trial in table.rows.items():
        kept = {seed: folder.find(trial.with_seed(seed)) for seed in table.seeds or SEEDS}
        found[label] = {seed: each.result for seed, each in kept.items() if each is not None}
    return found


def _table(folder: ResultFolder, name: str) -> Table | None:
    try:
        return TABLES[name](folder)
    except NotSwept:
        return None


def _text(folder: ResultFolder, name: str) -> str:
    command = f"`python benchmarks/quality/study.py --table {name} --seeds 5`"
    table = _table(folder, name)
    if table is None:
        return f"\nNot measured yet: it takes the best rows of a sweep. {command}\n\n"
    results = results_of(folder, table)
    found = rows(results, table.references)
    if not found:
        return f"\nNot measured yet. {command}\n\n"
    missing = [label for label, by_seed in results.items() if not by_seed]
    head = f"**{table.title}.** {command}; differences to {table.compared_with()}."
    lines = ["", head, "", *_lines(found)]
    if is_at_an_edge(table, found):
        lines += ["", "The best row is at an edge of what was tried."]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    if name in CHARTS:
        lines += ["", f"![{CHARTS[name]}](pictures/quality-{name}.png)"]
    return "\n".join([*lines, "", ""])


def is_at_an_edge(table: Table, found: Sequence[Row]) -> bool:
    """Whether a sweep of a number, done whole, is best at its first or last value."""
    labels = list(table.rows)
    if not table.is_ordered or len(found) < len(labels):
        return False
    best = min(found, key=lambda row: row.mean_of("loss"))
    return best.name in (labels[0], labels[-1])


def _lines(found: Sequence[Row]) -> list[str]:
    head = ("", "loss", "difference", "seeds", "merged", "goodput", "virtual s", "MB up / down")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in found:
        difference = "" if row.difference is None else row.difference.words()
        cells = (
            row.name,
            _loss(row),
            difference,
            str(row.num_seeds),
            f"{100 * row.mean_of('merged_tokens') / row.mean_of('trained_tokens'):.1f} %",
            f"{100 * row.mean_of('goodput'):.1f} %",
            f"{row.mean_of('time_s'):,.0f}",
            f"{megabytes(row.mean_of('up_bytes'))} / {megabytes(row.mean_of('down_bytes'))}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _loss(row: Row) -> str:
    losses = [result.loss for result in row.results.values()]
    if mean(losses) == float("inf"):
        return "diverged"
    return f"{mean(losses):.4f}"


# ---------------------------------------------------------------- charts


def _charts(folder: ResultFolder, pictures: Path) -> None:
    """A chart for each table that names one and has results."""
    pictures.mkdir(exist_ok=True)
    headline, learners = _table(folder, "headline"), _table(folder, "learners")
    found = results_of(folder, headline) if headline else {}
    if any(found.values()):
        most = max(len(by_seed) for by_seed in found.values())
        # Means over other seeds would not compare.
        found = {label: by_seed for label, by_seed in found.items() if len(by_seed) == most}
        title = "0.36 million parameters, 16 windows of 128 bytes a step in all"
        shown = {label: each for label, each in found.items() if label != AVERAGED}
        draw(shown, pictures / "quality-headline.png", title)
    others = results_of(folder, learners) if learners else {}
    if any(others.values()):
        both = {
            label: {**found.get(label, {}), **others.get(label, {})} for label in found | others
        }
        _gap_over_learners(both, pictures / "quality-learners.png")


def _gap_over_learners(found: Results, file: Path) -> None:
    """How far above data-parallel, over M: decoupled and synchronous DiLoCo."""
    reference = found.get("data-parallel", {})
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for number, kind in enumerate(("decoupled", "DiLoCo")):
        points = _points(found, reference, kind)
        if points:
            counts, shares, halves = zip(*points, strict=True)
            axes.errorbar(
                counts, shares, halves, color=COLOURS[number + 1], marker="o", capsize=4, label=kind
            )
    axes.axhline(0, color="#1b1b1b", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks((1, 2, 4, 8, 16), ("1", "2", "4", "8", "16"))
    axes.set_xlabel("learners")
    axes.set_ylabel("held-out loss above data-parallel, %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.suptitle("Loss at equal trained tokens, paired seeds", x=0.02, ha="left", fontsize=12)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _points(
    found: Results, reference: Mapping[int, TrainingResult], kind: str
) -> list[tuple[int, float, float]]:
    points = []
    for label, by_seed in found.items():
        seeds = sorted(set(by_seed) & set(reference))
        if label.startswith(f"{kind}, M = ") and seeds:
            losses = [by_seed[seed].loss for seed in seeds]
            others = [reference[seed].loss for seed in seeds]
            shares = [100 * (a / b - 1) for a, b in zip(losses, others, strict=True)]
            half = half_interval(shares) if len(seeds) > 2 else nan
            share = 100 * paired_difference(losses, others).share
            points.append((int(label.rpartition(" ")[2]), share, half))
    return sorted(points)


if __name__ == "__main__":
    sys.exit(main())
