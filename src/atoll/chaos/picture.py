"""The picture of a campaign: who was hit when and healed when, and how the run went meanwhile."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

from atoll.chaos.campaign import Campaign
from atoll.chaos.goodput import Pace, goodput
from atoll.chaos.kinds import KINDS, SYNCER, Group
from atoll.chaos.record import Struck
from atoll.chaos.report import ChaosReport, pace_of, sizes_of

COLOURS: dict[Group, str] = {
    "kill": "#c0392b",
    "freeze": "#2980b9",
    "link": "#e08e0b",
    "disk": "#8e44ad",
    "clock": "#7f8c8d",
    "lie": "#16a085",
}
WORDS: dict[Group, str] = {
    "kill": "killed",
    "freeze": "frozen",
    "link": "link cut, slow, lossy, reset or half-open",
    "disk": "disk full, file torn",
    "clock": "clock jumps",
    "lie": "garbage, not a number",
}
BIN_S = 20.0
QUIET = "#d9dde1"


def has_plots() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(campaign: Campaign, report: ChaosReport, path: Path) -> None:
    """Write the picture; needs the `plots` extra."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [SYNCER, *(f"island-{n}" for n in range(report.learners))]
    height = 4.2 + 0.16 * len(names) if len(names) > 12 else 4.6 + 0.3 * len(names)
    ratios = [1.5, 1.5, max(3.0, 0.17 * len(names) * 1.6)]
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(11, height), sharex=True, height_ratios=ratios, layout="constrained"
    )
    _goodput(top, campaign, report)
    _attendance(middle, campaign)
    _faults(bottom, campaign, names)
    for axis in (top, middle, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, (report.window_s[1] - report.window_s[0]) / 60)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _title(report: ChaosReport) -> str:
    in_time = report.faults - report.faults_late
    rate = in_time / max(1e-9, (report.window_s[1] - report.window_s[0]) / 3600)
    return (
        f"{report.learners} learners, {report.faults} faults in {report.minutes:g} min "
        f"({rate:.0f} per hour), {report.healed} healed: goodput {report.goodput:.1%}, "
        f"participation {report.participation:.1%}"
    )


def _goodput(axis: Any, campaign: Campaign, report: ChaosReport) -> None:
    begin_s, end_s = report.window_s
    sizes, pace = sizes_of(campaign), pace_of(campaign)
    num_bins = max(1, int((end_s - begin_s) / BIN_S))
    edges = [begin_s + (end_s - begin_s) * n / num_bins for n in range(num_bins + 1)]
    shares = [_share(campaign, sizes, pace, window) for window in pairwise(edges)]
    minutes = [(edge - begin_s) / 60 for edge in edges]
    axis.stairs([100 * share for share in shares], minutes, fill=True, color="#7fb7a3")
    if report.baseline is not None:
        without = 100 * report.baseline.goodput
        axis.axhline(without, color="#34495e", lw=1, ls="--")
        axis.text(minutes[-1], without + 1, "without faults ", ha="right", va="bottom", fontsize=8)
    axis.set_ylim(0, 119)
    axis.set_yticks([0, 50, 100])
    axis.set_ylabel("goodput, %")


def _share(campaign: Campaign, sizes: list[int], pace: Pace, window: tuple[float, float]) -> float:
    return goodput(campaign.watch.work, sizes, pace, window)


def _attendance(axis: Any, campaign: Campaign) -> None:
    """Learners registered, live and merged per round."""
    from matplotlib.ticker import MaxNLocator

    looks = campaign.census.looks
    minutes = [(look.at_s - campaign.begun_s) / 60 for look in looks]
    axis.step(minutes, [look.registered for look in looks], color="#95a5a6", label="registered")
    axis.step(minutes, [look.live for look in looks], color="#2c3e50", lw=1, label="live")
    at, merged = _merged_per_round(campaign)
    axis.plot(at, merged, ".", color="#27ae60", ms=4, label="merged per round")
    axis.set_ylim(0, 1.15 * max((look.registered for look in looks), default=1))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axis.set_ylabel("learners")
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0}
    axis.legend(ncols=3, fontsize=8, frameon=False, **place)


def _merged_per_round(campaign: Campaign) -> tuple[list[float], list[float]]:
    looks = campaign.census.looks
    at, merged, last = [], [], looks[0] if looks else None
    for look in looks:
        assert last is not None, "there is a first look"
        rounds = look.merges - last.merges
        if look.at_s >= last.at_s + BIN_S / 2 and rounds:
            at.append((look.at_s - campaign.begun_s) / 60)
            merged.append((look.learners_merged - last.learners_merged) / rounds)
            last = look
    return at, merged


def _faults(axis: Any, campaign: Campaign, names: list[str]) -> None:
    """A row for each process: dark while the fault held, light until it had healed."""
    from matplotlib.lines import Line2D

    rows = {name: len(names) - 1 - place for place, name in enumerate(names)}
    for row in rows.values():
        axis.axhline(row, color=QUIET, lw=1, zorder=0)
    for each in campaign.watch.struck:
        _fault(axis, each, rows[each.who], campaign.begun_s)
    axis.set_yticks(list(rows.values()), list(rows), fontsize=6 if len(names) > 12 else 8)
    axis.set_ylim(-0.8, len(names) - 0.2)
    axis.set_xlabel("minutes of the storm")
    there = {KINDS[each.fault.kind].group for each in campaign.watch.struck}
    handles = [
        Line2D([], [], color=COLOURS[group], marker="|", ms=9, mew=2, lw=4, label=WORDS[group])
        for group in COLOURS
        if group in there
    ]
    if handles:
        axis.figure.legend(
            handles=handles, loc="outside lower left", ncols=3, fontsize=8, frameon=False
        )


def _fault(axis: Any, struck: Struck, row: int, begun_s: float) -> None:
    colour = COLOURS[struck.group]
    begin, lifted = (struck.done_s - begun_s) / 60, (struck.lifted_s - begun_s) / 60
    healed = (struck.healed_s - begun_s) / 60 if struck.is_healed else lifted
    axis.plot([begin, healed], [row, row], color=colour, alpha=0.35, lw=5, solid_capstyle="butt")
    axis.plot([begin, lifted], [row, row], color=colour, lw=5, solid_capstyle="butt")
    axis.plot([begin], [row], "|", color=colour, ms=9, mew=2)
    if not struck.is_healed:
        axis.plot([lifted], [row], "x", color="black", ms=7)
