"""What interrupts the learners of a simulated training run, drawn from a seed.

A learner's interruptions depend on its name and the seed alone, so runs of different methods and
settings are hit at the same times.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Literal

from atoll.simulator.learner_node import LearnerNode
from atoll.simulator.swarm import revive
from atoll.simulator.world import World

YEAR_S = 365.25 * 86_400
FaultKind = Literal["none", "pause", "kill", "cut"]


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each learner is interrupted, how, and for how long."""

    kind: FaultKind = "none"
    """pause: chips fail, the island goes on without them, and takes them back later; kill: the
    process dies and a fresh one joins; cut: its link is cut."""
    mtbf_s: float = 300.0
    """Mean time between two interruptions of one learner."""
    down_s: float = 12.0
    """How long an interruption lasts."""
    return_s: float = 120.0
    """Mean time until failed chips are back, which costs the island a second pause."""

    def __post_init__(self) -> None:
        if self.kind not in ("none", "pause", "kill", "cut"):
            raise ValueError(f"faults are {self.kind!r}: use none, pause, kill or cut")
        for name in ("mtbf_s", "down_s", "return_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"faults {name} is {getattr(self, name)}: use seconds above 0")

    def pauses(self, dice: random.Random, until_s: float) -> list[tuple[float, float]]:
        """When interruptions of one learner begin, and how long they last."""
        found: list[tuple[float, float]] = []
        at_s = 0.0
        while self.kind != "none":
            at_s += dice.expovariate(1 / self.mtbf_s)
            if at_s > until_s:
                break
            found.append((at_s, self.down_s))
            if self.kind == "pause":
                found.append((at_s + dice.expovariate(1 / self.return_s), self.down_s))
        return sorted(found)


def learner_mtbf_s(num_chips: int, num_learners: int, mtbi_years: float = 1.0) -> float:
    """Mean time between interruptions of one of `num_learners` equal islands."""
    return mtbi_years * YEAR_S * num_learners / num_chips


def dice_of(seed: int, learner: str) -> random.Random:
    """What draws one learner's interruptions."""
    return random.Random(f"{seed}/{learner}")


def interrupt(world: World, faults: Faults, seed: int, until_s: float) -> list[float]:
    """Schedule all interruptions of a run that has just begun; when they come."""
    times: list[float] = []
    for node in world.learners.values():
        for at_s, down_s in faults.pauses(dice_of(seed, node.name), until_s):
            world.clock.after(at_s, functools.partial(_strike, node, faults.kind, down_s))
            times.append(world.clock.now_s + at_s)
    return times


def _strike(node: LearnerNode, kind: FaultKind, down_s: float) -> None:
    clock = node.world.clock
    match kind:
        case "pause":
            node.stall(down_s)
        case "kill":
            node.kill()
            clock.after(down_s, lambda: revive(node))
        case "cut":
            node.cut_link()
            clock.after(down_s, node.mend_link)
        case "none":
            pass
