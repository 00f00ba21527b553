"""Admission: each rule of what may be merged, with the reason for a refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.core.admission import refusal
from atoll.core.ids import Cut, CutId, Mark
from atoll.core.settings import ProtocolSettings
from atoll.core.shard_state import Fragment, Seat

SETTINGS = ProtocolSettings(M=2, P=1, H=8)
GOOD = Cut(CutId("a", 3, 7), 0, base=5, first_token=400, end_token=800, steps=4, call=9, at_step=20)


def code(cut: Cut = GOOD, through: int = 400, final: bool = False, **settings: Any) -> str:
    """Asked at version 5 after round 9; cut 6 of this life was merged in version 5."""
    fragment = Fragment(0, version=5, round_number=9, final=final)
    fragment.marks["a"] = Mark("a", 3, 6, 5)
    seat = Seat(3, [through], [0], [0], [0], [(0, 0.0)])
    found = refusal(cut, fragment, seat, through, replace(SETTINGS, **settings))
    assert bool(found.code) == bool(found.sentence), "a refusal names its reason"
    return found.code


def test_a_cut_on_the_newest_version_is_admissible() -> None:
    assert code() == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"end_token": 400},
        {"first_token": -1},
        {"steps": 0},
        {"steps": 21},
        {"base": -1},
        {"call": -1},
        {"id": CutId("a", 3, 0)},
    ],
    ids=str,
)
def test_counters_that_contradict_each_other_are_malformed(changes: dict[str, Any]) -> None:
    assert code(replace(GOOD, **changes)) == "malformed"


@pytest.mark.parametrize("life", [2, 4])
def test_a_cut_of_another_life_is_refused(life: int) -> None:
    assert code(replace(GOOD, id=CutId("a", life, 7))) == "stale_incarnation"


def test_nothing_is_admissible_after_the_last_round() -> None:
    assert code(final=True) == "closed"


def test_a_base_or_a_round_that_never_was_is_refused() -> None:
    assert code(replace(GOOD, base=6)) == "unknown_base"
    assert code(replace(GOOD, call=10)) == "unknown_round"
    assert code(replace(GOOD, call=0)) == "", "a last contribution answers no call"


def test_a_base_older_than_the_version_that_merged_this_learner_is_counted_already() -> None:
    assert code(replace(GOOD, base=4)) == "counted"


@pytest.mark.parametrize("number", [5, 6])
def test_the_merged_cut_and_older_ones_are_counted_already(number: int) -> None:
    assert code(replace(GOOD, id=CutId("a", 3, number))) == "counted"


def test_tokens_that_have_their_fate_are_counted_already() -> None:
    assert code(through=401) == "counted"
    assert code(through=400) == ""


def other_life(**changes: Any) -> str:
    """As `code`, but nothing of this life was merged yet."""
    fragment = Fragment(0, version=5, round_number=9)
    fragment.marks["a"] = Mark("a", 2, 99, 5)
    cut = replace(GOOD, **changes)
    return refusal(cut, fragment, Seat(3, [0], [0], [0], [0], [(0, 0.0)]), 0, SETTINGS).code


def test_what_an_earlier_life_had_merged_does_not_bind_the_next_one() -> None:
    assert other_life(base=4) == ""
    assert other_life(id=CutId("a", 3, 1)) == ""


def test_a_base_more_than_max_staleness_versions_old_is_stale() -> None:
    assert other_life(base=3) == ""
    assert other_life(base=2) == "stale"


def test_long_work_is_too_old_only_on_a_base_that_missed_a_version() -> None:
    assert other_life(base=3, steps=16) == ""
    assert other_life(base=3, steps=17) == "too_old"
    assert other_life(base=4, steps=17) == "", "a call may come with the version before its cut"
    assert other_life(base=5, steps=17) == "", "nobody else's work is missing from its base"
