"""Scavenged compute and mixed hardware, driven by the cores."""

from __future__ import annotations

import pytest

from atoll.simulator.chips.mixed import Mix, mixed
from atoll.simulator.chips.scavenge import (
    PUBLISHED,
    PUBLISHED_ELASTIC,
    elastic,
    ideal,
    paces_of_extra,
    scavenge,
)
from atoll.simulator.chips.settings import SimulationError


def test_extra_compute_is_worth_what_it_computes() -> None:
    found = scavenge(0.3)
    assert found.ours == pytest.approx(found.ideal, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [0.25, 1.0, 3.0])
def test_published_training_times_with_extra_compute(extra: float) -> None:
    assert scavenge(extra).ours == pytest.approx(0.5 + 0.5 / (1 + extra), rel=0.02)
    assert scavenge(extra).ours == pytest.approx(PUBLISHED[extra], rel=0.02)


def test_formulas_of_scavenging() -> None:
    assert ideal(1.0) == 0.75
    for extra, published in PUBLISHED_ELASTIC.items():
        assert elastic(extra) == pytest.approx(published, abs=0.025)


def test_a_rest_of_extra_compute_is_a_slower_learner() -> None:
    assert paces_of_extra(0.0) == []
    assert paces_of_extra(0.25) == [1.0, 1.0]
    assert paces_of_extra(0.3) == [1.0, 1.0, pytest.approx(0.4)]


@pytest.mark.parametrize("extra", [-0.1, 99.0, float("nan")])
def test_impossible_extra_compute_is_refused(extra: float) -> None:
    with pytest.raises(SimulationError, match="extra = "):
        scavenge(extra)


@pytest.mark.slow
def test_only_waiting_for_all_costs_the_faster_half() -> None:
    by_rule = {each.rule: each for each in mixed(Mix())}
    assert 0.84 <= by_rule["all"].goodput <= 0.85
    assert by_rule["grace"].goodput >= 0.99
    assert by_rule["one"].goodput >= 0.99
    assert by_rule["all"].participation == 1.0
    assert by_rule["grace"].participation > by_rule["one"].participation + 0.1


def test_a_mix_that_cannot_be_is_refused() -> None:
    with pytest.raises(SimulationError, match="learners = 7 must be even"):
        Mix(learners=7)
    with pytest.raises(SimulationError, match=r"slower = -0\.5"):
        Mix(slower=-0.5)
