"""Learners that are elastic islands of chips, driven by the cores in virtual time.

The cores decide all that concerns rounds, cuts and installs; here is only what a learner's machine
does: it loses slices, pauses, takes them in again. A learner of a synchronous system also waits,
between two steps, until it has been called and its cut has come back merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.core import effects as fx
from atoll.core.learner_state import TRAINING
from atoll.simulator.chips.settings import Method
from atoll.simulator.chips.watch import LeanWatch
from atoll.simulator.learner_node import LearnerNode
from atoll.simulator.world import World

if TYPE_CHECKING:
    from atoll.core.coordinator import RunSettings
    from atoll.simulator.chips.island import ChipIsland
    from atoll.simulator.network import Island
    from atoll.simulator.world import Conditions

TOKENS_PER_SLICE = 1000
"""Tokens a slice trains per step; only shares of them are reported."""
ENDLESS_TOKENS = 10**15
"""A budget that no run here reaches."""


@dataclass(slots=True)
class Uptime:
    """Time in which at least one learner steps."""

    num_stepping: int = 0
    since_s: float = 0.0
    before_s: float = 0.0

    def go(self, now_s: float) -> None:
        """A learner begins to step."""
        if self.num_stepping == 0:
            self.since_s = now_s
        self.num_stepping += 1

    def stop(self, now_s: float) -> None:
        """A learner pauses, waits or dies."""
        self.num_stepping -= 1
        if self.num_stepping == 0:
            self.before_s += now_s - self.since_s

    def up_s(self, now_s: float) -> float:
        """So far."""
        return self.before_s + (now_s - self.since_s if self.num_stepping else 0.0)


class ChipNode(LearnerNode):
    """A learner on an island of chips."""

    world: ChipWorld

    def __init__(self, world: ChipWorld, island: Island):
        super().__init__(world, island)
        self.chips = world.chips[island.name]
        self.pause_s = 0.0
        self.next_cut_step = 0
        self.stepping = False
        self.waiting_since_s = 0.0
        self.is_waiting = False
        self.waited_s = 0.0
        self.absent_slice_s = 0.0

    def start(self) -> None:
        """A fresh process, without a pause of the one before."""
        self.pause_s, self.is_waiting = 0.0, False
        self.next_cut_step = self.world.method.steps_between_cuts
        super().start()

    def kill(self) -> None:
        """Gone; it does not step any more."""
        self._set_stepping(False)
        super().kill()

    def _train(self) -> int:
        """A step over the slices that there are; what happened meanwhile is acted on."""
        now_s, chips = self.world.clock.now_s, self.chips
        self.absent_slice_s += self.island.step_s * (chips.num_slices - chips.num_active)
        end = chips.step_ends(now_s)
        self.pause_s = end.pause_s
        if end.is_dead and not self.world.method.waits:
            self._later(0.0, lambda: self._die(end.pause_s))
        return end.trained * TOKENS_PER_SLICE

    def _die(self, for_s: float) -> None:
        self.kill()
        self.world.clock.after(for_s, self.start)

    # ------------------------------------------------------------ between two steps

    def _schedule_step(self) -> None:
        pause_s, self.pause_s = self.pause_s, 0.0
        if pause_s > 0:
            self._set_stepping(False)
            self._later(pause_s, self._begin_step)
        else:
            self._begin_step()

    def _begin_step(self) -> None:
        if not self._must_wait():
            self._set_stepping(self.core.state.phase == TRAINING)
            super()._schedule_step()
            return
        self._set_stepping(False)
        self.is_waiting, self.waiting_since_s = True, self.world.clock.now_s
        if self.cuts or self.installs:
            self._later(0.0, self._attend)

    def _must_wait(self) -> bool:
        """Whether a synchronous learner has got as far as it may without the others."""
        state, method = self.core.state, self.world.method
        return method.waits and state.phase == TRAINING and state.steps >= self._may_reach()

    def _may_reach(self) -> int:
        """`lead_steps` past the oldest cut that has not come back, or past the one that is due."""
        holdings = self.core.state.holdings
        out = [cut.at_step for holding in holdings for cut in holding.ledger.outstanding]
        return min([*out, self.next_cut_step]) + self.world.method.lead_steps

    def _cuts_due(self) -> tuple[int, ...]:
        """A synchronous learner cuts one fragment after another, at steps all agree on."""
        method, steps = self.world.method, self.core.state.steps
        if not method.waits:
            return super()._cuts_due()
        if not self.cuts or steps < self.next_cut_step:
            return ()
        self.next_cut_step += method.steps_between_cuts
        return (min(self.cuts, key=lambda fragment: self.cuts[fragment].id.number),)

    def _carry_out(self, effect: fx.Effect) -> None:
        super()._carry_out(effect)
        if self.is_waiting and isinstance(effect, fx.CutOrder | fx.InstallOrder):
            self._later(0.0, self._attend)

    def _attend(self) -> None:
        """While it waits, a learner does what is asked of it at once, then looks again."""
        if not self.is_waiting:
            return
        self._boundary()
        if not self._must_wait():
            self.is_waiting = False
            self.waited_s += self.world.clock.now_s - self.waiting_since_s
            self._begin_step()

    def _set_stepping(self, stepping: bool) -> None:
        if stepping != self.stepping:
            self.stepping = stepping
            now_s, uptime = self.world.clock.now_s, self.world.uptime
            (uptime.go if stepping else uptime.stop)(now_s)


class ChipWorld(World):
    """A run whose learners are islands of chips."""

    node_type = ChipNode

    def __init__(
        self,
        method: Method,
        run: RunSettings,
        islands: list[Island],
        conditions: Conditions,
        chips: dict[str, ChipIsland],
    ):
        self.chips = chips
        self.method = method
        self.uptime = Uptime()
        super().__init__(method.protocol, run, islands, conditions)
        self.watch = LeanWatch()

    @property
    def nodes(self) -> list[ChipNode]:
        """The learners."""
        return [node for node in self.learners.values() if isinstance(node, ChipNode)]

    @property
    def merged_tokens(self) -> float:
        """Tokens merged so far, the mean over the fragments."""
        fragments = [each for shard in self.shards for each in shard.core.state.fragments]
        return sum(each.merged_tokens for each in fragments) / len(fragments)
