"""Every constant of the world of chips, once, with its reason.

The published failure simulation names its knobs and not their values. One set of values was fitted
here to all published cells of its goodput grid; which cells, and how far off, `grid.py` tells. No
constant differs between systems, numbers of chips or numbers of learners.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from atoll.simulator.chips.failures import ReturnDelay

YEAR_S: Final = 365.25 * 86_400


@dataclass(frozen=True, slots=True)
class ChipConstants:
    """What the world of chips is made of. Times in seconds."""

    slice_chips: int = 64
    """Chips that fail and return together: one rack with its own interconnect. Only the capacity
    that is away depends on it, 0.2 % with this one."""
    step_s: float = 15.0
    """One step of a learner, and what failures wait for: tens of millions of tokens per step and
    learner at a trillion parameters. Fitted: the larger, the more failures share a pause."""
    step_jitter: float = 0.02
    """Steps of a learner differ by so much up and down: the variance of the chips' speed."""
    scale_down_s: float = 18.0
    """From a step's end without all slices to the next step on fewer: noticing that a slice is
    silent, a new mesh, the lost shards of the state from their copies, a program for the new mesh.
    Fitted, together with `scale_up_s`, to the elastic row and to M = 8 and 16."""
    scale_up_s: float = 13.0
    """The same for slices that come back: known beforehand, so there is nothing to notice."""
    restart_s: float = 90.0
    """A job that is not elastic: noticing, a spare slice, starting all processes again, state from
    the memory of the slices that survived. Fitted to the two published cells of that row."""
    returns: ReturnDelay = field(default_factory=lambda: ReturnDelay(500.0, 0.8, 2.0))
    """When a lost slice is back: rarely at once, mostly within the half hour that draining,
    rebooting and testing a machine take, sometimes after hours of repair. Mean 15 minutes."""
    history_s: float = 86_400.0
    """Failures are drawn from so long before the beginning, so that the usual number of slices is
    away when it begins; hardly any return delay is as long."""


@dataclass(frozen=True, slots=True)
class ProtocolConstants:
    """How the cores are set in the world of chips; M and P come from who asks."""

    H: int = 24
    """Steps between two merges of a fragment: the published default."""
    tau: int = 2
    """Steps of overlap of Streaming DiLoCo: the published default. Decoupled takes "auto"."""
    control_s: float = 0.05
    """One way of a small message: between continents."""
    transfer_s: float = 8.0
    """All parameters once in one direction, a P-th of it for a fragment: 100 GB at 100 Gbit/s."""
    merge_s: float = 0.1
    """Merging a fragment and making it durable; shards work beside each other."""
    beat_s: float = 15.0
    """A sign of life every step; `silence_s` is six of them."""
    warm_up_steps: int = 48
    """Steps before anything is counted: two rounds of every fragment."""


CHIPS: Final = ChipConstants()
PROTOCOL: Final = ProtocolConstants()
