"""Whose work the newest versions hold, and what is said when it is not everybody's."""

from __future__ import annotations

from atoll.core.ids import Mark
from atoll.core.membership import AWAY, LIVE, Member
from atoll.core.shard_state import Fragment
from atoll.syncer.participation import degraded, merged_in

H = 8


def fragments(*newest: tuple[str, ...]) -> list[Fragment]:
    """Fragments at version 5, each with those whose work is in it; everybody was in version 3."""
    found = []
    for number, names in enumerate(newest):
        marks = {name: Mark(name, 1, 1, 5 if name in names else 3) for name in ("a", "b", "c")}
        found.append(Fragment(number, version=5, marks=marks))
    return found


def members(*states: str, step: int = 100) -> dict[str, Member]:
    return {name: Member(1, state, step=step) for name, state in zip("abc", states, strict=False)}


def test_silent_degradation_to_solo_training_is_said_with_names() -> None:
    solo = fragments(("a",), ("a",))
    assert merged_in(solo) == {"a": 2}
    said = degraded(members(LIVE, LIVE, AWAY), solo, H)
    assert said == "merging only a's work, nothing of b (live), c (away)"


def test_one_that_is_live_and_never_merged_is_said_though_others_are() -> None:
    said = degraded(members(LIVE, LIVE, LIVE), fragments(("a", "b"), ("b",)), H)
    assert said == "c is live, and in the newest version of no fragment"


def test_nothing_is_said_while_all_is_well_or_too_early_to_tell() -> None:
    everybody = fragments(("a", "b"), ("c",))
    assert degraded(members(LIVE, LIVE, LIVE), everybody, H) == ""
    solo = fragments(("a",), ("a",))
    assert degraded(members(LIVE), solo, H) == "", "alone is not degraded"
    assert degraded(members(LIVE, LIVE, step=2 * H - 1), solo, H) == "", "they have just come"
    solo[0].version = 0
    assert degraded(members(LIVE, LIVE), solo, H) == "", "not every fragment was merged yet"
    assert degraded(members(LIVE, LIVE), [], H) == ""


def test_one_of_many_that_is_away_is_no_degradation() -> None:
    assert degraded(members(LIVE, LIVE, AWAY), fragments(("a", "b")), H) == ""
