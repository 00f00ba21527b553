"""Paired differences and the rows made of them."""

from __future__ import annotations

from math import inf

import pytest

from atoll.compare.statistics import half_interval, paired_difference
from atoll.compare.table import footnote, rows, words
from atoll.simulator.training import Look, TrainingResult


def result(loss: float, diverged: str = "") -> TrainingResult:
    look = Look(1000, 900, 10.0, loss)
    return TrainingResult((look,), 1000, 900, 10.0, 0.9, 1.0, 5, 6, 3, 0, diverged)


def test_the_interval_of_known_values() -> None:
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert half_interval([1.0]) == inf


def test_pairs_cancel_what_they_share() -> None:
    found = paired_difference([1.01, 2.02, 4.04], [1.0, 2.0, 4.0])
    assert found.share == pytest.approx(0.01)
    assert found.resolved


def test_an_interval_with_zero_in_it_is_not_resolved() -> None:
    found = paired_difference([1.01, 0.99], [1.0, 1.0])
    assert not found.resolved
    assert "not resolved" in found.words()


def test_one_seed_resolves_nothing() -> None:
    found = paired_difference([2.0], [1.0])
    assert not found.resolved
    assert found.words() == "+100.00 % (one seed)"


def test_rows_are_compared_over_the_seeds_they_share() -> None:
    found = rows({"a": {0: result(1.0), 1: result(2.0)}, "b": {1: result(2.2)}}, "a")
    assert found[0].difference is None
    assert found[1].difference is not None
    assert found[1].difference.share == pytest.approx(0.1)
    assert words(found[1])[2] == "+10.00 %"
    assert "one seed" in footnote(found)


def test_a_diverged_run_says_so() -> None:
    found = rows({"a": {0: result(1.0)}, "b": {0: result(1.0, "not finite")}}, "a")
    assert words(found[1])[1:3] == ("diverged", "diverged")
    assert found[1].plain()["loss"] is None
