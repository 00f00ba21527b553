"""P, H and precision: down a ladder from the finest, until lines, syncer and prices allow it.

Each rung costs a little more quality than the one above: fewer bits first, longer rounds only where
the fewest bits do not fit, or where no bits help (a disk, cores). What would not fit even on the
last rung is left out by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from atoll.merge.codecs import Codec
from atoll.simulator.planning.ask import Ask
from atoll.simulator.planning.needs import (
    Choice,
    cost,
    line_need,
    pacing_step_s,
    syncer_need,
)

PRECISIONS: Final[tuple[tuple[Codec, Codec], ...]] = (
    ("bf16", "bf16"),
    ("int8", "int8"),
    ("int4", "int8"),
    ("int4", "int4"),
)
ROUNDS: Final = (24, 48, 96, 192)
MOST_FRAGMENTS: Final = 96
LINE_SHARE: Final = 0.7
"""A line is filled so far at most; the rest is for catching up, joining and other traffic."""
EGRESS_SHARE: Final = 0.2
"""Egress may cost so much of computing; beyond, fewer bytes are worth a rung."""
SMALLEST_FRAGMENT: Final = 5_000
"""Smaller fragments cost more in messages than in values."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice, whom it is for, and why the rungs above were not taken."""

    ask: Ask
    choice: Choice
    passed: tuple[str, ...]
    left_out: tuple[str, ...]
    trouble: str


def choose(ask: Ask) -> Chosen:
    """The finest rung that fits; sites that fit on none are left out."""
    passed: list[str] = []
    trouble = ""
    ladder = [_rung(ask, up, down, H) for H in ROUNDS for up, down in PRECISIONS]
    for choice in ladder:
        trouble = trouble_with(ask, choice)
        if not trouble:
            return Chosen(ask, choice, tuple(passed), (), "")
        passed.append(f"{choice.words}: {trouble}")
    choice = ladder[-1]
    hopeless = {each.name for each in ask.sites if line_need(ask, choice, each).share > LINE_SHARE}
    if hopeless and len(hopeless) < len(ask.sites):
        rest = tuple(each for each in ask.sites if each.name not in hopeless)
        again = choose(replace(ask, sites=rest))
        names = (*sorted(hopeless), *again.left_out)
        return replace(again, left_out=names)
    return Chosen(ask, choice, tuple(passed), (), trouble)


def tau_steps(ask: Ask, choice: Choice) -> int:
    """What tau = auto comes to: whole steps that cover the slowest way round, and a boundary."""
    step_s = pacing_step_s(ask.sites)
    slowest_s = max(line_need(ask, choice, each).round_trip_s for each in ask.sites)
    return max(1, -int(-slowest_s // step_s)) + 1


def trouble_with(ask: Ask, choice: Choice) -> str:
    """What does not fit, as a sentence; empty where all does."""
    for site in ask.sites:
        need = line_need(ask, choice, site)
        if need.share > LINE_SHARE:
            way = "up" if need.up_share >= need.down_share else "down"
            return f"the line of {site.name} would be {need.share:.0%} full {way}"
    tau, limit = tau_steps(ask, choice), max(1, choice.H // 4)
    if tau > max(limit, 2):
        return f"a fragment would take {tau} steps to come back, more than H / 4 = {limit}"
    need_s = syncer_need(ask, choice, tau)
    for share, what in ((need_s.in_share, "incoming"), (need_s.out_share, "outgoing")):
        if share > LINE_SHARE:
            return f"the syncer's {what} line would be {share:.0%} full"
    if need_s.merge_threads > ask.syncer.cores:
        cores = ask.syncer.cores
        return f"merging takes {need_s.merge_threads} cores and the syncer has {cores}"
    if need_s.disk_share > LINE_SHARE:
        return f"the syncer's disk would be {need_s.disk_share:.0%} busy"
    hour = cost(ask, choice, 1.0)
    if hour.compute and hour.egress > EGRESS_SHARE * hour.compute:
        return f"egress would cost {hour.egress / hour.compute:.0%} of computing"
    return ""


def _rung(ask: Ask, up: Codec, down: Codec, H: int) -> Choice:
    P = min(H, MOST_FRAGMENTS, ask.params // SMALLEST_FRAGMENT)
    return Choice(max(1, P), H, up, down)
