"""Charts of a comparison: loss against trained tokens, and against time. Needs matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.compare.statistics import mean
from atoll.simulator.training import TrainingResult

LOG_FROM = 20
"""Times that differ by more than so many times are drawn on a logarithmic axis."""
COLOURS = ("#1b1b1b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999")
"""Told apart by people who see colours differently."""


class ChartError(ValueError):
    """A chart cannot be drawn here."""

    fix = "pip install 'atoll[plots]'"


def pyplot() -> Any:
    """Matplotlib's drawing board, without a window."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise ChartError(f"charts need matplotlib, which is not here: {error}") from error
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def draw(results: Mapping[str, Mapping[int, TrainingResult]], file: Path, title: str) -> None:
    """Two panels: loss against trained tokens, and against virtual time."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    drawn = {name: by_seed for name, by_seed in results.items() if by_seed}
    for number, (name, by_seed) in enumerate(drawn.items()):
        runs = list(by_seed.values())
        tokens, losses = _curve(runs, "tokens")
        times, _ = _curve(runs, "time_s")
        look = {"color": COLOURS[number % len(COLOURS)], "linewidth": 2, "marker": "o"}
        left.plot([each / 1e6 for each in tokens], losses, markersize=3.5, label=name, **look)
        right.plot(times, losses, markersize=3.5, label=name, **look)
    _dress(left, "trained tokens, millions")
    _dress(right, "virtual time, seconds")
    low, high = right.get_xlim()
    if high > LOG_FROM * max(low, 1.0):
        right.set_xscale("log")
    left.set_ylabel("held-out loss, nats per token")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.tight_layout()
    handles, labels = left.get_legend_handles_labels()
    below = {"loc": "upper left", "bbox_to_anchor": (0.01, 0.0), "ncols": 4}
    figure.legend(handles, labels, frameon=False, **below)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _dress(axes: Any, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(runs: Sequence[TrainingResult], along: str) -> tuple[list[float], list[float]]:
    """Means over the seeds, look by look, as far as all of them went; the first one is noise."""
    count = min(len(run.looks) for run in runs)
    places = range(min(1, count - 1), count)
    xs = [mean([float(getattr(run.looks[at], along)) for run in runs]) for at in places]
    return xs, [mean([run.looks[at].loss for run in runs]) for at in places]
