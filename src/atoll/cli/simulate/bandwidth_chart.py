"""The chart of `atoll simulate bandwidth`: what utilisation costs in bandwidth, and a thin line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from atoll.core.settings import SettingsError

COLOURS = {
    "data-parallel": "#8c2d04",
    "diloco": "#cc7a29",
    "streaming": "#7a7a9e",
    "decoupled": "#0b6e8f",
}
NAMES = {
    "data-parallel": "data-parallel",
    "diloco": "DiLoCo",
    "streaming": "Streaming DiLoCo",
    "decoupled": "decoupled, any",
}


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the chart; the suffix of the file says in which format."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError(
            f"--plot needs matplotlib ({error}): pip install 'atoll[plots]'"
        ) from error
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        rows = document.get("thin_line", [])
        figure = Figure(figsize=(12.0 if rows else 7.2, 4.8), layout="constrained")
        panels = figure.subplots(1, 2 if rows else 1, squeeze=False)[0]
        _draw_needed(panels[0], document)
        if rows:
            need = document["systems"]["decoupled-apart"]["up"]["average"]
            _draw_thin(panels[1], rows, need)
        figure.suptitle(_title(document), fontsize=13)
        try:
            figure.savefig(path, dpi=160)
        except (OSError, ValueError) as error:
            raise SettingsError(f"--plot {path}: {error}; name a .png, .svg or .pdf") from error


def _title(document: dict[str, Any]) -> str:
    params = document["params"] / 1e9
    return (
        f"{params:g} billion parameters, {document['step_s']:g} s a step, "
        f"{document['datacenters']} data centres, {document['precision']} on the wire"
    )


def _draw_needed(axes: Any, document: dict[str, Any]) -> None:
    labels: list[str] = []
    ends: list[tuple[float, str]] = []
    for system, colour in COLOURS.items():
        needed = document["systems"][system]["needed"]
        labels = [f"{share} %" for share in needed]
        rates = list(needed.values())
        if system == "decoupled":
            average = document["systems"][system]["up"]["average"]
            axes.axhline(average, color=colour, linewidth=2.5)
            ends.append((average, system))
            continue
        axes.plot(range(len(rates)), rates, color=colour, marker="o", linewidth=2)
        ends.append((rates[-1], system))
    axes.set_yscale("log")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.2, len(labels) - 1 + 0.15)
    axes.set_xlabel("compute utilisation wanted")
    axes.set_ylabel("Gbit/s per link and direction")
    axes.set_title("Bandwidth it takes", loc="left", fontsize=12)
    axes.grid(axis="y", alpha=0.25)
    for height, (rate, system) in zip(_apart(ends), ends, strict=True):
        axes.annotate(
            f"{NAMES[system]}  {rate:,.3g}",
            (1.01, height),
            xycoords=("axes fraction", "data"),
            color=COLOURS[system],
            va="center",
        )


def _apart(ends: list[tuple[float, str]], ratio: float = 1.5) -> list[float]:
    """Heights for labels beside the ends of lines, at least a ratio apart."""
    order = sorted(range(len(ends)), key=lambda each: ends[each][0])
    heights = [rate for rate, _ in ends]
    for below, above in pairwise(order):
        heights[above] = max(heights[above], heights[below] * ratio)
    return heights


def _draw_thin(axes: Any, rows: list[dict[str, Any]], need: float) -> None:
    lines = [row["line"] for row in rows]
    kinds = {
        "stall": ("waiting for the line", "#8c2d04", "s"),
        "participation": ("learners merged / live", "#7a7a9e", "^"),
        "rounds": ("rounds in time", "#cc7a29", "o"),
        "merged": ("work merged", "#0b6e8f", "D"),
    }
    for key, (label, colour, marker) in kinds.items():
        shares = [100 * row[key] for row in rows]
        axes.plot(lines, shares, color=colour, marker=marker, linewidth=2, label=label)
    axes.axvline(need, color="#999999", linestyle="--", linewidth=1)
    axes.annotate(f" average need {need:.3g}", (need, 8), color="#666666")
    axes.set_ylim(-3, 104)
    axes.set_xlabel("line of each learner, Gbit/s")
    axes.set_ylabel("%")
    axes.set_title("Decoupled, syncer apart: a thin line costs rounds", loc="left", fontsize=12)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center right")
