"""What is asked of the world of chips, and the cores' settings for each system compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from atoll.core.settings import ProtocolSettings
from atoll.simulator.chips.constants import PROTOCOL

SYSTEMS: Final = {
    "none": "one job, not elastic",
    "elastic": "one elastic job",
    "diloco": "DiLoCo",
    "streaming": "Streaming DiLoCo",
    "decoupled": "Decoupled DiLoCo",
}
"""The systems compared, and how people are told of them."""

SINGLE: Final = ("none", "elastic")
"""Systems that are one job over all chips, whatever the number of learners."""

NEVER_S: Final = 1e9


class SimulationError(ValueError):
    """What was asked cannot be simulated. The message names what, why and the fix."""


@dataclass(frozen=True, slots=True)
class ChipRun:
    """One system on so many chips, for a while."""

    system: str = "decoupled"
    chips: int = 1_200_000
    learners: int = 8
    """Islands the chips are divided among; one for the systems that are a single job."""
    mtbi_years: float = 1.0
    """Mean time between two interruptions of one chip."""
    days: float = 0.0
    """Simulated time that is measured, after a warm-up. 0: what takes about five seconds."""
    seed: int = 0
    fragments: int = 8
    """P. The method's 24 cost three times the events for the same goodput and uptime; learners in a
    pause then miss more rounds, so participation is lower."""
    overlap_steps: int = PROTOCOL.tau
    """tau of Streaming DiLoCo: steps in which a merge may come back before a learner waits for it.
    Decoupled measures how many it needs."""

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            names = ", ".join(SYSTEMS)
            raise SimulationError(f"system '{self.system}' is not known: choose one of {names}")
        for name, least in (("chips", 1), ("learners", 1), ("seed", 0)):
            if getattr(self, name) < least:
                text = f"{name} = {getattr(self, name)} must be a whole number from {least} on"
                raise SimulationError(text)
        if self.fragments < 1 or PROTOCOL.H % self.fragments:
            fits = ", ".join(str(P) for P in range(1, PROTOCOL.H + 1) if PROTOCOL.H % P == 0)
            text = f"fragments = {self.fragments} must divide H = {PROTOCOL.H}: choose of {fits}"
            raise SimulationError(text)
        if not 1 <= self.overlap_steps < PROTOCOL.H:
            raise SimulationError(
                f"overlap_steps = {self.overlap_steps} must be from 1 to below H = {PROTOCOL.H}"
            )
        if self.num_islands > self.chips:
            raise SimulationError(
                f"{self.chips} chips cannot be divided among {self.learners} learners: "
                f"set learners to {self.chips} or less"
            )
        if not (math.isfinite(self.mtbi_years) and self.mtbi_years > 0):
            text = f"mtbi_years = {self.mtbi_years} must be a number of years above 0"
            raise SimulationError(text)
        if not (math.isfinite(self.days) and self.days >= 0):
            text = f"days = {self.days} must be a number of days, or 0 for a few seconds' worth"
            raise SimulationError(text)

    @property
    def num_islands(self) -> int:
        """Jobs that the chips are divided among."""
        return 1 if self.system in SINGLE else self.learners

    @property
    def island_chips(self) -> float:
        """Chips of one island; a fraction where the division leaves a rest."""
        return self.chips / self.num_islands


@dataclass(frozen=True, slots=True)
class Method:
    """How the cores are set for a system, and whether learners wait.

    A synchronous learner cuts a fragment every `steps_between_cuts` of its own steps, and `waits`
    when it is `lead_steps` past a cut whose merged version is not there.
    """

    protocol: ProtocolSettings
    waits: bool = False
    steps_between_cuts: int = 0
    lead_steps: int = 0


def method_of(
    system: str, M: int, P: int, step_s: float, overlap_steps: int = PROTOCOL.tau
) -> Method:
    """The cores' settings for diloco (which has one fragment), streaming or decoupled."""
    H = PROTOCOL.H
    common: dict[str, Any] = {
        "M": M,
        "beat_s": PROTOCOL.beat_s,
        "silence_s": 6 * PROTOCOL.beat_s,
        "first_round_s": 8 * step_s,
    }
    if system == "decoupled":
        return Method(ProtocolSettings(P=P, H=H, receipt="keep", **common))
    common |= {"K": "all", "busy_after_steps": NEVER_S}
    common |= {"first_round_s": NEVER_S, "min_round_s": NEVER_S}
    if system == "diloco":
        return Method(_called_early(1, H, common), True, H, 0)
    return Method(_called_early(P, H, common), True, H // P, overlap_steps)


def _called_early(P: int, H: int, common: dict[str, Any]) -> ProtocolSettings:
    """Calls come at half of H, since a synchronous learner itself knows when it is to cut.

    The round of a fragment stays open until all are in, so a fragment is merged once in H steps.
    """
    half = max(P, H // 2)
    return ProtocolSettings(P=P, H=half, tau=1, receipt="keep", max_age_steps=4 * H, **common)
