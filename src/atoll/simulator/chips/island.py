"""A data-parallel job over slices of chips: what failures and returns cost it.

A slice that fails during a step hands nothing in; the others finish the step, and their gradients
count. At the step's end everything that happened is acted on at once: one pause, whatever the
number of slices. What happens during the pause is part of the same reconfiguration and does not
begin it again. The batch of a slice is fixed (its memory and its program are), so a smaller island
takes steps of the same length with fewer tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from atoll.simulator.chips.constants import YEAR_S, ChipConstants
from atoll.simulator.chips.failures import AT_ONCE, ReturnDelay, Weather


@dataclass(frozen=True, slots=True)
class StepEnd:
    """What a step came to: the slices that handed in, and the pause that follows.

    `is_dead`: the island has lost its last slice, and with it all state; the pause is until one
    is back and started.
    """

    trained: int
    pause_s: float
    is_dead: bool = False


class ChipIsland:
    """The slices of one job, and its reconfigurations."""

    def __init__(self, weather: Weather, lose_s: float, gain_s: float, restart_s: float):
        self.weather = weather
        self.lose_s = lose_s
        self.gain_s = gain_s
        self.restart_s = restart_s
        self.num_active = weather.num_present
        self.num_pauses = 0
        self.paused_s = 0.0

    @property
    def num_slices(self) -> int:
        """Slices that were allocated."""
        return self.weather.num_slices

    def step_ends(self, now_s: float) -> StepEnd:
        """A step ends now: act on all that happened since it began."""
        change = self.weather.until(now_s)
        trained = max(0, self.num_active - change.failed)
        self.num_active = self.weather.num_present
        if self.num_active == 0:
            return self._die(now_s, trained)
        pause_s = self.lose_s if change.failed else self.gain_s if change.returned else 0.0
        self._pause(now_s, pause_s)
        return StepEnd(trained, pause_s)

    def _pause(self, now_s: float, pause_s: float) -> None:
        """The mesh that the pause ends with is made of the slices that are there then."""
        self.num_pauses += int(pause_s > 0)
        self.paused_s += pause_s
        self.weather.until(now_s + pause_s)
        self.num_active = self.weather.num_present

    def _die(self, now_s: float, trained: int) -> StepEnd:
        back_s = now_s
        while self.num_active == 0:
            back_s = self.weather.next_return_s() + self.restart_s
            self.weather.until(back_s)
            self.num_active = self.weather.num_present
        self.num_pauses += 1
        self.paused_s += back_s - now_s
        return StepEnd(trained, back_s - now_s, is_dead=True)


@dataclass(frozen=True, slots=True)
class Site:
    """Which chips a job has: their number, how often one fails, and what draws it."""

    chips: float
    mtbi_years: float
    seed: str


def elastic_island(site: Site, constants: ChipConstants) -> ChipIsland:
    """Loses slices, goes on with fewer, and takes them in again when they are back."""
    weather = _weather(site, constants, constants.returns)
    lose_s, gain_s = constants.scale_down_s, constants.scale_up_s
    return ChipIsland(weather, lose_s, gain_s, constants.restart_s)


def rigid_island(site: Site, constants: ChipConstants) -> ChipIsland:
    """Needs all its slices: any failure is a restart, with a spare slice in place of the lost."""
    weather = _weather(site, constants, AT_ONCE)
    return ChipIsland(weather, constants.restart_s, 0.0, constants.restart_s)


def _weather(site: Site, constants: ChipConstants, returns: ReturnDelay) -> Weather:
    """Slices of equal size, none larger than a slice is, with a history behind them."""
    num_slices = math.ceil(site.chips / constants.slice_chips)
    fail_every_s = site.mtbi_years * YEAR_S / site.chips
    weather = Weather(num_slices, fail_every_s, returns, site.seed)
    weather.begin(-constants.history_s)
    weather.until(0.0)
    weather.num_failures = 0
    return weather
