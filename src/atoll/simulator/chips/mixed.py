"""Mixed hardware: half of the learners are slower, and what that costs under three rules.

* K = all: every fragment waits for everybody, so all train at the pace of the slowest.
* K = 1 without grace: a merge takes who is there; the others hand in later.
* K = 1 with grace: it waits as long as the overlap allows.

Goodput is that of the faster half, which is what waiting costs: the share of their chip time whose
work was merged. The slower half never waits. Nothing fails here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from atoll.core.coordinator import RunSettings
from atoll.simulator.chips.constants import CHIPS, PROTOCOL
from atoll.simulator.chips.fleet import ENDLESS_TOKENS, TOKENS_PER_SLICE, ChipNode, ChipWorld
from atoll.simulator.chips.island import ChipIsland, Site, elastic_island
from atoll.simulator.chips.settings import Method, SimulationError, method_of
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions

PUBLISHED: Final = {"all": 0.84, "one": 1.0, "grace": 1.0}
PUBLISHED_MIX: Final = (8, 0.18)
RULES: Final = {"all": "K = all", "one": "K = 1, no grace", "grace": "K = 1 with grace"}
NUM_FRAGMENTS: Final = 8
WARM_UP_STEPS: Final = 72
MEASURED_STEPS: Final = 240
NO_GRACE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Mixed:
    """What one rule came to. Shares from 0 to 1."""

    rule: str
    goodput: float
    goodput_all: float
    """Of all learners, the slower ones included."""
    participation: float
    merges: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Mix:
    """So many learners, half of them slower by a share."""

    learners: int = 8
    slower: float = 0.18
    seed: int = 0

    @property
    def published(self) -> dict[str, float]:
        """The published goodput by rule, where this mix is the published one."""
        return dict(PUBLISHED) if (self.learners, self.slower) == PUBLISHED_MIX else {}

    def __post_init__(self) -> None:
        if self.learners < 2 or self.learners % 2:
            raise SimulationError(f"learners = {self.learners} must be even and 2 or more")
        if not 0 <= self.slower <= 10:
            text = f"slower = {self.slower} must be from 0 to 10; 0.18 is 18 % more time per step"
            raise SimulationError(text)


def mixed(mix: Mix) -> list[Mixed]:
    """All three rules."""
    return [of_rule(rule, mix) for rule in RULES]


def of_rule(rule: str, mix: Mix) -> Mixed:
    """One rule, driven by the cores."""
    world = _world(method_of_rule(rule, mix.learners), mix)
    fast, slow = world.nodes[: mix.learners // 2], world.nodes[mix.learners // 2 :]
    tally = world.shards[0].core.state.tally
    longest_s = CHIPS.step_s * (1 + mix.slower)
    world.run_for(WARM_UP_STEPS * longest_s)
    before = [_merged_s(nodes) for nodes in (fast, slow)]
    counts = (tally.learners_merged, tally.learners_live, tally.merges)
    span_s = MEASURED_STEPS * longest_s
    world.run_for(span_s)
    shares = [
        (_merged_s(nodes) - merged_s) / (span_s * len(nodes))
        for nodes, merged_s in zip((fast, slow), before, strict=True)
    ]
    return Mixed(
        rule,
        min(1.0, shares[0]),
        min(1.0, (shares[0] + shares[1]) / 2),
        min(1.0, (tally.learners_merged - counts[0]) / (tally.learners_live - counts[1])),
        tally.merges - counts[2],
    )


def method_of_rule(rule: str, M: int) -> Method:
    """How the cores are set."""
    if rule == "all":
        return method_of("streaming", M, NUM_FRAGMENTS, CHIPS.step_s)
    method = method_of("decoupled", M, NUM_FRAGMENTS, CHIPS.step_s)
    if rule == "grace":
        return method
    return replace(method, protocol=replace(method.protocol, gamma=NO_GRACE, min_token_share=0.0))


def _world(method: Method, mix: Mix) -> ChipWorld:
    step_s, half = CHIPS.step_s, mix.learners // 2
    link = Link(PROTOCOL.control_s, bulk_s=PROTOCOL.transfer_s / method.protocol.P)
    islands = [
        Island(
            f"island-{number:03}",
            step_s * (1 + mix.slower if number >= half else 1.0),
            CHIPS.step_jitter,
            link,
            step_s * number / mix.learners,
        )
        for number in range(mix.learners)
    ]
    run = RunSettings("mixed", "layout", ENDLESS_TOKENS, progress_every_s=2 * PROTOCOL.beat_s)
    conditions = Conditions(mix.seed, PROTOCOL.merge_s, check=False)
    chips: dict[str, ChipIsland] = {
        each.name: elastic_island(Site(1, 1e12, each.name), CHIPS) for each in islands
    }
    return ChipWorld(method, run, islands, conditions, chips)


def _merged_s(nodes: list[ChipNode]) -> float:
    """Chip time whose work was merged, the mean over the fragments."""
    merged_s = 0.0
    for node in nodes:
        holdings = node.core.state.holdings
        merged = sum(each.ledger.merged for each in holdings) / len(holdings)
        merged_s += merged / TOKENS_PER_SLICE * node.island.step_s
    return merged_s
