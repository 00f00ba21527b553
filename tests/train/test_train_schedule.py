"""The learning rate over a run's progress."""

from __future__ import annotations

import pytest

from atoll.train.schedule import learning_rate_at, learning_rate_factor
from atoll.train.settings import DecayShape, OptimizerSettings


def test_warm_up_rises_in_a_straight_line_from_zero() -> None:
    settings = OptimizerSettings(warmup_share=0.2)
    assert learning_rate_factor(0.0, settings) == 0.0
    assert learning_rate_factor(0.1, settings) == pytest.approx(0.5)
    assert learning_rate_factor(0.2, settings) == pytest.approx(1.0)


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate_factor(0.0, OptimizerSettings(warmup_share=0.0)) == 1.0


@pytest.mark.parametrize(
    ("decay", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)]
)
def test_decay_ends_where_it_should(decay: DecayShape, middle: float, end: float) -> None:
    settings = OptimizerSettings(warmup_share=0.0, final_share=0.1, decay=decay)
    assert learning_rate_factor(0.5, settings) == pytest.approx(middle)
    assert learning_rate_factor(1.0, settings) == pytest.approx(end)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_the_rate_never_rises_after_the_warm_up(decay: DecayShape) -> None:
    settings = OptimizerSettings(warmup_share=0.1, decay=decay)
    factors = [learning_rate_factor(place / 100, settings) for place in range(10, 101)]
    assert factors == sorted(factors, reverse=True)


def test_the_rate_is_the_factor_of_the_highest() -> None:
    settings = OptimizerSettings(learning_rate=0.5, warmup_share=0.5)
    assert learning_rate_at(0.25, settings) == pytest.approx(0.25)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_the_run_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="cap it"):
        learning_rate_factor(progress, OptimizerSettings())
