"""Charts of the world of chips: goodput, its grid, scavenging and mixed hardware."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atoll.simulator.chips.goodput import Goodput
from atoll.simulator.chips.grid import CHIPS, ROWS, Cell, name_of
from atoll.simulator.chips.mixed import RULES, Mix, Mixed
from atoll.simulator.chips.scavenge import (
    PUBLISHED,
    PUBLISHED_ELASTIC,
    Scavenged,
    elastic,
    ideal,
)
from atoll.simulator.chips.settings import SINGLE, SYSTEMS

OURS = "#0b6e8f"
OTHERS = "#8c2d04"
THIRD = "#cc7a29"
QUIET = "#7a7a9e"
PALE = "#d9dde1"


class ChartError(ValueError):
    """The chart cannot be drawn or written. The message names what and the fix."""


@contextmanager
def chart(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure that is written at the end; the suffix of the file says in which format."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ChartError(
            f"--plot needs matplotlib ({error}): pip install 'atoll[plots]'"
        ) from error
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        try:
            figure.savefig(path, dpi=160)
        except (OSError, ValueError) as error:
            raise ChartError(f"--plot {path}: {error}; name a .png, .svg or .pdf") from error


# ---------------------------------------------------------------- one run


def draw_goodput(result: Goodput, path: Path) -> None:
    """Where the chip time went, and goodput over time."""
    with chart(path, (9.5, 4.2)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        _draw_shares(left, result)
        _draw_over_time(right, result)
        run = result.run
        parts = "" if run.system in SINGLE else f" of {run.learners} learners"
        text = f"{SYSTEMS[run.system]}{parts} on {run.chips:,} chips, "
        text += f"failures per chip and year: {1 / run.mtbi_years:g}"
        figure.suptitle(text, fontsize=12.5)


def _draw_shares(axes: Any, result: Goodput) -> None:
    shares = {
        "useful": (result.goodput.mean, OURS),
        "pauses": (result.paused, OTHERS),
        "waiting": (result.waited, THIRD),
        "absent slices": (result.absent, QUIET),
    }
    rest = 1 - math.fsum(share for share, _ in shares.values())
    shares["other"] = (max(0.0, rest), PALE)
    names = list(shares)[::-1]
    for place, name in enumerate(names):
        share, colour = shares[name]
        axes.barh(place, 100 * share, color=colour, height=0.62)
        axes.text(100 * share + 1.5, place, f"{100 * share:.1f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("% of the chip time")
    axes.set_title("Where the time went", loc="left", fontsize=12)


def _draw_over_time(axes: Any, result: Goodput) -> None:
    parts = [100 * min(1.0, share) for share in result.over_time]
    hours = [result.span_s / 3600 * (n + 0.5) / len(parts) for n in range(len(parts))]
    mean, se = 100 * result.goodput.mean, 100 * result.goodput.se
    axes.axhspan(mean - 2 * se, mean + 2 * se, color=OURS, alpha=0.15, linewidth=0)
    axes.axhline(mean, color=OURS, linewidth=1)
    axes.plot(hours, parts, color=OURS, marker="o", linewidth=2)
    axes.set_ylim(0, 104)
    axes.set_xlabel("simulated hours")
    axes.set_ylabel("%")
    title = f"Goodput {mean:.1f} ± {se:.1f} %, uptime {100 * result.uptime.mean:.2f} %"
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(alpha=0.25)


# ---------------------------------------------------------------- the grid


def draw_grid(found: list[Cell], path: Path) -> None:
    """A heat map: ours in every cell, what was published below it."""
    with chart(path, (10.5, 5.6)) as figure:
        axes = figure.subplots()
        by_place = {(cell.row, cell.chips): cell for cell in found}
        shares = [
            [100 * by_place[row, chips].result.goodput.mean for chips in CHIPS] for row in ROWS
        ]
        axes.imshow(shares, cmap="YlGnBu", vmin=0, vmax=110, aspect="auto")
        for cell in found:
            _draw_cell(axes, cell)
        axes.set_xticks(range(len(CHIPS)), [_chips(chips) for chips in CHIPS])
        axes.set_yticks(range(len(ROWS)), [name_of(row) for row in ROWS])
        axes.set_xlabel("chips, each failing once a year")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for edge in range(1, len(ROWS)):
            axes.axhline(edge - 0.5, color="white", linewidth=4 if edge in (2, 4) else 1)
        title = "Goodput in %: simulated with Atoll's cores"
        axes.set_title(title, loc="left", fontsize=14, pad=26)
        axes.text(
            0, 1.02, "below, where there is one: the published figure", transform=axes.transAxes
        )


def _draw_cell(axes: Any, cell: Cell) -> None:
    share = 100 * cell.result.goodput.mean
    x, y = CHIPS.index(cell.chips), ROWS.index(cell.row)
    colour = "white" if share > 62 else "#1b1b1b"
    known = not math.isnan(cell.published)
    axes.text(
        x,
        y - (0.16 if known else 0),
        f"{share:.1f}",
        ha="center",
        va="center",
        color=colour,
        fontsize=13,
        fontweight="bold",
    )
    if known:
        words = f"published {100 * cell.published:.0f}"
        axes.text(x, y + 0.22, words, ha="center", va="center", color=colour, fontsize=9)


def _chips(chips: int) -> str:
    return f"{chips / 1e6:g}M" if chips >= 1_000_000 else f"{chips // 1000}k"


# ---------------------------------------------------------------- scavenging, mixed hardware


def draw_scavenge(found: list[Scavenged], path: Path) -> None:
    """Training time by extra compute, on the lines that are expected."""
    with chart(path, (8.0, 4.8)) as figure:
        axes = figure.subplots()
        most = max(3.0, *(each.extra for each in found))
        extras = [most * n / 120 for n in range(121)]
        percent = [100 * extra for extra in extras]
        axes.plot(percent, [elastic(x) for x in extras], color=OTHERS, linewidth=2, alpha=0.5)
        axes.plot(percent, [ideal(x) for x in extras], color=OURS, linewidth=2, alpha=0.4)
        for published, colour in ((PUBLISHED, OURS), (PUBLISHED_ELASTIC, OTHERS)):
            points = [100 * extra for extra in published]
            look = {"facecolors": "none", "edgecolors": colour, "s": 110, "linewidths": 1.6}
            axes.scatter(points, list(published.values()), **look)
        axes.scatter(
            [100 * each.extra for each in found], [e.ours for e in found], color=OURS, s=30
        )
        places = (0.55 * most, 0.55 * most)
        words = ("elastic data-parallel (formula)", "Decoupled (dots: simulated; line: ideal)")
        for extra, name, of, colour, up in (
            (places[0], words[0], elastic, OTHERS, 10),
            (places[1], words[1], ideal, OURS, 10),
        ):
            at = (100 * extra, of(extra))
            axes.annotate(name, at, (4, up), textcoords="offset points", color=colour)
        axes.axhline(1, color=PALE, linewidth=1, zorder=0)
        axes.set_ylim(0.5, 1.15)
        axes.set_xlabel("extra compute during the second half of the work, %")
        axes.set_ylabel("training time / time without")
        axes.set_title("Compute that comes half-way (rings: published)", loc="left", fontsize=13)
        axes.grid(alpha=0.25)


def draw_mixed(mix: Mix, found: list[Mixed], path: Path) -> None:
    """Goodput of the faster half and participation, rule by rule."""
    with chart(path, (8.0, 4.4)) as figure:
        axes = figure.subplots()
        kinds = {
            "goodput of the faster half": (OURS, -0.2, [each.goodput for each in found]),
            "learners merged / live": (PALE, 0.2, [each.participation for each in found]),
        }
        for label, (colour, offset, shares) in kinds.items():
            places = [place + offset for place in range(len(found))]
            heights = [100 * share for share in shares]
            axes.bar(places, heights, width=0.38, color=colour, label=label)
            for place, height in zip(places, heights, strict=True):
                axes.text(place, height + 2, f"{height:.1f}", ha="center")
        if mix.published:
            for place, each in enumerate(found):
                height = 100 * mix.published[each.rule]
                label = "published" if place == 0 else ""
                axes.plot([place - 0.4, place], [height] * 2, color="black", ls=":", label=label)
        axes.set_xticks(range(len(found)), [RULES[each.rule] for each in found])
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 128)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel("%")
        axes.legend(frameon=False, ncols=3, loc="upper left")
        title = f"{mix.learners} learners, half of them {100 * mix.slower:g} % slower"
        axes.set_title(title, loc="left", fontsize=13)
