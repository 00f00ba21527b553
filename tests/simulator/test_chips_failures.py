"""Failures and returns of slices against closed forms."""

from __future__ import annotations

import math
import random
from statistics import fmean, pstdev

import pytest

from atoll.simulator.chips.constants import CHIPS, YEAR_S
from atoll.simulator.chips.failures import AT_ONCE, ReturnDelay, Weather
from atoll.simulator.chips.island import Site, elastic_island, rigid_island


def test_failures_are_a_poisson_process_of_the_rate_asked_for() -> None:
    weather = Weather(10_000, 60.0, AT_ONCE, "poisson")
    weather.begin(0.0)
    per_hour = [weather.until(3600.0 * (hour + 1)).failed for hour in range(4000)]
    num = sum(per_hour)
    assert abs(num - 240_000) < 4 * math.sqrt(240_000)
    assert pstdev(per_hour) ** 2 / fmean(per_hour) == pytest.approx(1.0, abs=0.1)


def test_a_failure_strikes_a_chip_once_in_its_mean_time() -> None:
    island = rigid_island(Site(1_200_000, 1.0, "rate"), CHIPS)
    island.weather.until(10 * 86_400.0)
    expected = 10 * 86_400.0 * 1_200_000 / YEAR_S
    assert abs(island.weather.num_failures - expected) < 4 * math.sqrt(expected)
    apart_s = YEAR_S / 1_200_000
    assert apart_s == pytest.approx(26.3, abs=0.1), "the published 26 s"


@pytest.mark.parametrize(("shape", "power"), [(0.8, 2), (1.0, 1), (1.7, 3)])
def test_the_mean_return_is_that_of_an_exponentiated_weibull(shape: float, power: int) -> None:
    """Its closed form for a whole power."""
    signed = (
        (-1) ** j * math.comb(power - 1, j) * power / (j + 1) ** (1 + 1 / shape)
        for j in range(power)
    )
    mean_s = 500.0 * math.gamma(1 + 1 / shape) * math.fsum(signed)
    delay, dice = ReturnDelay(500.0, shape, float(power)), random.Random(1)
    assert delay.mean_s() == pytest.approx(mean_s, rel=2e-3)
    drawn = [delay.draw_s(dice) for _ in range(40_000)]
    assert fmean(drawn) == pytest.approx(mean_s, rel=0.03)
    below = (1 - math.exp(-((300.0 / 500.0) ** shape))) ** power
    assert sum(each <= 300.0 for each in drawn) / len(drawn) == pytest.approx(below, abs=0.01)


def test_as_many_slices_are_away_as_rate_times_delay() -> None:
    island = elastic_island(Site(1_200_000, 1.0, "away"), CHIPS)
    away = []
    for hour in range(600):
        away.append(island.num_slices - island.weather.num_present)
        island.weather.until(3600.0 * (hour + 1))
    expected = 1_200_000 / YEAR_S * CHIPS.returns.mean_s()
    assert fmean(away[:5]) == pytest.approx(expected, rel=0.4), "from the beginning on"
    assert fmean(away) == pytest.approx(expected, rel=0.05)


def test_what_happens_does_not_depend_on_how_often_one_asks() -> None:
    def history(stride_s: float) -> tuple[int, int, float]:
        weather = Weather(50, 30.0, CHIPS.returns, "asked")
        weather.begin(0.0)
        failed = returned = 0
        at_s = 0.0
        while at_s < 20_000.0:
            at_s += stride_s
            change = weather.until(at_s)
            failed, returned = failed + change.failed, returned + change.returned
        return failed, returned, weather.next_s()

    assert history(10.0) == history(1000.0)


def test_a_slice_that_is_away_cannot_fail_again() -> None:
    weather = Weather(3, 1.0, ReturnDelay(1e9, 1.0, 1.0), "gone")
    weather.begin(0.0)
    assert weather.until(1000.0).failed == 3
    assert weather.num_present == 0
    assert weather.next_return_s() > 1000.0
