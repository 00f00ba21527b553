"""An elastic island against timelines worked out by hand, and jobs against closed forms."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from atoll.simulator.chips.constants import CHIPS, YEAR_S
from atoll.simulator.chips.failures import AT_ONCE, ReturnDelay, Weather
from atoll.simulator.chips.island import (
    ChipIsland,
    Site,
    StepEnd,
    elastic_island,
    rigid_island,
)
from atoll.simulator.chips.job import Job

DAY_S = 86_400.0


class After(ReturnDelay):
    """Every slice is back after the same time."""

    def draw_s(self, dice: random.Random) -> float:
        """Always the scale."""
        return self.scale_s


class Timetable(Weather):
    """Failures at the times of a list, each of a slice that is there; then none."""

    def __init__(self, num_slices: int, failures_s: list[float], back_s: float):
        self.times = failures_s
        super().__init__(num_slices, 1.0, After(back_s, 1.0, 1.0), "timetable")
        self.begin(0.0)

    def begin(self, at_s: float) -> None:
        """The first of the list."""
        self._gaps = [b - a for a, b in zip([at_s, *self.times], self.times, strict=False)]
        super().begin(at_s)

    def _gap_s(self) -> float:
        return self._gaps.pop(0) if self._gaps else math.inf


def island_of(failures_s: list[float], back_s: float, num_slices: int = 1000) -> ChipIsland:
    """Losing costs 6 s, taking in 4 s, starting again 50 s."""
    return ChipIsland(Timetable(num_slices, failures_s, back_s), 6.0, 4.0, 50.0)


def test_several_failures_in_a_step_cost_one_pause() -> None:
    island = island_of([12.0, 13.0, 14.0], back_s=1000.0)
    assert island.step_ends(10.0) == StepEnd(1000, 0.0)
    assert island.step_ends(20.0) == StepEnd(997, 6.0), "the others finish the step"
    assert island.step_ends(36.0) == StepEnd(997, 0.0), "and go on with fewer"


def test_a_failure_during_a_pause_does_not_begin_it_again() -> None:
    island = island_of([12.0, 23.0, 25.9], back_s=1000.0)
    assert island.step_ends(20.0) == StepEnd(999, 6.0)
    assert island.num_active == 997, "the new mesh is without those that failed in the pause"
    assert island.step_ends(36.0) == StepEnd(997, 0.0)
    assert island.paused_s == 6.0


def test_a_return_is_taken_in_at_the_end_of_a_step_for_a_pause_of_its_own() -> None:
    island = island_of([12.0], back_s=20.0)
    assert island.step_ends(20.0) == StepEnd(999, 6.0)
    assert island.step_ends(36.0) == StepEnd(999, 4.0), "it came back at 32 and did not train"
    assert island.step_ends(50.0) == StepEnd(1000, 0.0)
    assert (island.num_pauses, island.paused_s) == (2, 10.0)


def test_a_return_and_a_failure_in_one_step_cost_one_pause() -> None:
    island = island_of([12.0, 31.0], back_s=20.0)
    assert island.step_ends(20.0) == StepEnd(999, 6.0)
    assert island.step_ends(36.0) == StepEnd(998, 6.0)
    assert island.num_active == 999


def test_an_island_without_slices_is_dead_until_one_is_back() -> None:
    island = island_of([12.0], back_s=100.0, num_slices=1)
    assert island.step_ends(20.0) == StepEnd(0, 112.0 + 50.0 - 20.0, is_dead=True)
    assert island.step_ends(172.0) == StepEnd(1, 0.0)


def test_a_rigid_job_starts_again_on_spares() -> None:
    island = ChipIsland(Timetable(10, [12.0, 15.0, 40.0], 0.0), 90.0, 0.0, 90.0)
    island.weather.returns = AT_ONCE
    end = island.step_ends(20.0)
    assert end.pause_s == 90.0, "the failure at 40 does not begin it again"
    assert island.num_active == 10
    assert island.step_ends(120.0) == StepEnd(10, 0.0)


@pytest.mark.parametrize("make", [elastic_island, rigid_island])
@pytest.mark.parametrize("chips", [10_000, 1_200_000])
def test_passing_quiet_stretches_in_one_go_changes_nothing(make, chips: int) -> None:  # type: ignore[no-untyped-def]
    site = Site(chips, 1.0, "twice")
    step_by_step = Job(make(site, CHIPS), CHIPS.step_s, fast_forward=False)
    quick = Job(make(site, CHIPS), CHIPS.step_s)
    for end_s in (1000.0, DAY_S, 4 * DAY_S):
        step_by_step.run_until(end_s)
        quick.run_until(end_s)
        for name in ("now_s", "useful_slice_s", "up_s", "absent_slice_s"):
            assert getattr(quick, name) == pytest.approx(getattr(step_by_step, name), rel=1e-9)
        assert quick.island.weather.num_failures == step_by_step.island.weather.num_failures


@pytest.mark.parametrize("chips", [150_000, 600_000, 2_400_000])
def test_jobs_agree_with_the_closed_form(chips: int) -> None:
    """A pause follows a step with a failure, a cheaper one a step with a return only."""
    at_once = replace(CHIPS, slice_chips=1)
    quiet = math.exp(-chips / YEAR_S * CHIPS.step_s)
    pauses = {
        elastic_island: (1 - quiet) * CHIPS.scale_down_s + quiet * (1 - quiet) * CHIPS.scale_up_s,
        rigid_island: (1 - quiet) * CHIPS.restart_s,
    }
    for make, pause_s in pauses.items():
        job = Job(make(Site(chips, 1.0, "closed"), at_once), CHIPS.step_s)
        job.run_until(10 * DAY_S)
        share = job.useful_slice_s / job.now_s / job.island.num_slices
        expected = CHIPS.step_s / (CHIPS.step_s + pause_s)
        assert share == pytest.approx(expected, abs=0.008)
