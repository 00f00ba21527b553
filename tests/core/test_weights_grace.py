"""Weights and scales of contributions; grace and overlap in numbers."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.core.effects import Part
from atoll.core.grace import fewest_steps, grace_s, longest_grace_s, median, smooth
from atoll.core.ids import Cut, CutId
from atoll.core.settings import ProtocolSettings
from atoll.core.weights import covered, part_of


def part(tokens: int, steps: int, base: int = 5, **settings: Any) -> Part:
    cut = Cut(CutId("a", 1, 1), 0, base, 0, tokens, steps, 1, steps)
    return part_of(cut, 5, ProtocolSettings(M=2, P=1, H=8, **settings))


def test_weight_is_tokens_times_tokens_per_step() -> None:
    assert part(800, 8).weight == 800 * 100
    assert part(800, 4).weight == 800 * 200, "the same tokens in fewer, larger batches weigh more"


def test_other_weightings() -> None:
    assert part(800, 4, weighting="tokens").weight == 800
    assert part(800, 4, weighting="uniform").weight == 1


@pytest.mark.parametrize(("unmerged", "scale"), [("drop", 0.5), ("carry", 1.0)])
def test_work_of_more_than_h_steps_weighs_as_h_steps(unmerged: str, scale: float) -> None:
    long = part(1600, 16, unmerged=unmerged)
    assert long.scale == scale, "what is dropped elsewhere is not made up for"
    assert long.weight == part(800, 8).weight
    assert part(1600, 16, weighting="tokens").weight == 800
    assert part(800, 8).scale == part(100, 1).scale == 1.0, "short work is not blown up"


def test_a_merge_is_scaled_by_the_share_of_the_weight_that_is_in_it() -> None:
    parts = [part(800, 8), part(400, 8)]
    inside = parts[0].weight + parts[1].weight
    assert [each.scale for each in covered(parts, 0.0)] == [1.0, 1.0]
    halved = covered(parts, inside)
    assert [each.scale for each in halved] == [0.5, 0.5]
    assert [each.weight for each in halved] == [each.weight for each in parts]


@pytest.mark.parametrize(("base", "scale"), [(5, 1.0), (4, 1 / 2), (3, 1 / 3)])
def test_stale_work_may_be_scaled_and_is_added_as_sent_otherwise(base: int, scale: float) -> None:
    assert part(800, 8, base, scale_stale=True).scale == scale
    assert part(800, 8, base).scale == 1.0
    assert part(1600, 16, base, scale_stale=True, unmerged="drop").scale == scale / 2


def test_grace_is_a_share_of_what_the_overlap_leaves() -> None:
    s = ProtocolSettings(gamma=0.5)
    assert grace_s(s, tau=3, step_s=2.0, spent_s=1.0) == 2.5
    assert grace_s(s, tau=1, step_s=1.0, spent_s=5.0) == 0.0, "never below zero"
    assert longest_grace_s(s, tau=3, step_s=2.0) == 3.0


def test_tau_auto_is_the_fewest_steps_that_cover_and_at_most_half_of_h() -> None:
    s = ProtocolSettings(H=24)
    fewest = [fewest_steps(s, 1.0, need_s) for need_s in (0.2, 1.0, 1.1, 5.9, 60.0)]
    assert fewest == [1, 1, 2, 6, 12]
    assert fewest_steps(s, 0.0, 1.0) == 2, "before any pace is known"
    assert fewest_steps(ProtocolSettings(P=1, H=1), 1.0, 9.0) == 1


def test_an_average_begins_with_its_first_value_and_then_moves_slowly() -> None:
    assert smooth(0.0, 10.0) == 10.0
    assert smooth(10.0, 20.0) == 12.0


def test_the_median_is_the_lower_one() -> None:
    assert median([]) == 0.0
    assert median([3.0, 1.0]) == 1.0
    assert median([1.0, 9.0, 2.0]) == 2.0
