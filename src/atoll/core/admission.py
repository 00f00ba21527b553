"""Whether a cut may be merged: counted once, fresh enough, of a present life, well formed.

Pure: the same question has the same answer when the cut is announced, when its bytes arrive and
when its round closes. The answer is the reason for a refusal, with an empty code for none.
"""

from __future__ import annotations

from atoll.core.ids import Cut
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings
from atoll.core.shard_state import Fragment, Seat

ADMISSIBLE = Reason("", "")
BEYOND_COUNT = 1 << 62
"""No learner has trained so many tokens; weights are still finite below it."""


def refusal(cut: Cut, fragment: Fragment, seat: Seat, through: int, s: ProtocolSettings) -> Reason:
    """Why this cut cannot be merged into the next version; `ADMISSIBLE` when it can.

    `through` is the position up to which this life's work has its fate in the fragment.
    """
    if not _well_formed(cut):
        return Reason("malformed", f"the counters of cut {cut.id} contradict each other")
    if cut.id.incarnation != seat.incarnation:
        return Reason("stale_incarnation", f"{cut.id} is of another life than {seat.incarnation}")
    if fragment.final:
        return Reason("closed", f"fragment {fragment.number} has had its last round")
    if cut.base > fragment.version:
        return Reason(
            "unknown_base", f"base {cut.base} was never published, {fragment.version} is the newest"
        )
    if cut.call > fragment.round_number:
        return Reason("unknown_round", f"round {cut.call} was never called")
    return _counted_once(cut, fragment, through) or _fresh(cut, fragment, s) or ADMISSIBLE


def _well_formed(cut: Cut) -> bool:
    return (
        0 <= cut.first_token < cut.end_token < BEYOND_COUNT
        and 0 < cut.steps <= cut.at_step
        and cut.base >= 0
        and cut.call >= 0
        and cut.id.number > 0
    )


def _counted_once(cut: Cut, fragment: Fragment, through: int) -> Reason | None:
    mark = fragment.marks.get(cut.id.learner)
    if mark is not None and mark.incarnation == cut.id.incarnation:
        if cut.id.number <= mark.cut:
            return Reason("counted", f"{cut.id} or a newer one is in version {mark.version}")
        if cut.base < mark.version:
            text = f"it holds work that version {mark.version} has, as its base is {cut.base}"
            return Reason("counted", text)
    if cut.first_token < through:
        return Reason("counted", f"work up to token {through} already has its fate")
    return None


def _fresh(cut: Cut, fragment: Fragment, s: ProtocolSettings) -> Reason | None:
    staleness = fragment.version - cut.base
    if staleness > s.max_staleness:
        return Reason(
            "stale", f"its base is {staleness} versions old, {s.max_staleness} are allowed"
        )
    if staleness > 1 and cut.steps > s.age_limit_steps:
        return Reason(
            "too_old", f"it holds {cut.steps} steps of work, {s.age_limit_steps} are allowed"
        )
    return None
