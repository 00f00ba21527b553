"""A whole training run in virtual time: real gradients and merges, made-up pace, links, failures.

Deterministic: the same settings give the same numbers. Yields a look at the published parameters
whenever the next share of the budget is trained, and the result last. Decides nothing: the cores
of production do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from atoll.core.coordinator_state import ENDED, RunSettings
from atoll.core.settings import ProtocolSettings
from atoll.merge.codecs import Codec, encoded_bytes
from atoll.merge.merge import MergeSettings
from atoll.simulator.judging import HeldOut, glance, judge, part_of
from atoll.simulator.network import Island, Link
from atoll.simulator.tensors import GONE, TensorPayload, TensorSettings
from atoll.simulator.training_faults import Faults, interrupt
from atoll.simulator.wire import BodySizes
from atoll.simulator.world import Conditions, World
from atoll.train.data import Sources
from atoll.train.settings import TrainSettings


class TrainingStalled(RuntimeError):
    """A simulated run makes no headway any more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Pace, links and failures of the islands."""

    step_s: float = 1.0
    """A step of a learner, on average."""
    step_jitter: float = 0.05
    """A step takes up to this share more or less."""
    slow_share: float = 0.0
    """Share of the learners whose steps take longer."""
    slow_factor: float = 1.0
    """How many times longer."""
    delay_s: float = 0.05
    """One way over the network."""
    model_transfer_s: float = 12.0
    """How long a learner's link takes for the whole model in bf16, one way."""
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        if not 0 <= self.slow_share <= 1 or self.slow_factor < 1:
            raise ValueError("slow_share goes from 0 to 1, and slow_factor from 1 on")
        if not (self.step_s > 0 and self.model_transfer_s > 0 and self.delay_s >= 0):
            raise ValueError("step_s and model_transfer_s must be above 0, delay_s 0 or more")

    def step_s_of(self, number: int, num_learners: int) -> float:
        """The pace of one learner; the last ones are the slow ones."""
        is_slow = number >= num_learners - round(self.slow_share * num_learners)
        return self.step_s * (self.slow_factor if is_slow else 1.0)

    def bytes_s(self, num_params: int) -> float:
        """The rate of a learner's link, each way."""
        return 2 * num_params / self.model_transfer_s


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """One training run of M learners, wherever its time comes from."""

    train: TrainSettings
    """`batch_size` is that of all learners together, `budget_tokens` the run's."""
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)
    uplink: Codec = "bf16"
    surroundings: Surroundings = field(default_factory=Surroundings)
    warm_steps: int = 0
    """Steps of data-parallel training before; they count as trained and merged tokens."""
    num_looks: int = 8
    """Evaluations on the way; the last is of the parameters that the run leaves."""
    judged_on: HeldOut = "all"
    """Which part of the held-out text they read."""

    def __post_init__(self) -> None:
        if self.num_looks < 1 or self.warm_steps < 0:
            raise ValueError("num_looks must be 1 or more, warm_steps 0 or more")
        if self.warm_tokens >= self.train.budget_tokens:
            raise ValueError("warm_steps use up the whole budget: give fewer, or more tokens")
        if self.train.optimizer.kind != "adamw" and self.surroundings.faults.kind == "kill":
            raise ValueError("simulated peers lend AdamW's state alone: use its kind, or no kills")

    @property
    def warm_tokens(self) -> int:
        """Tokens trained before the learners begin."""
        return self.warm_steps * self.train.step_tokens

    def looks(self) -> list[int]:
        """Trained tokens at which the published parameters are evaluated."""
        rest = self.train.budget_tokens - self.warm_tokens
        count = self.num_looks
        return [self.warm_tokens + rest * number // count for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Look:
    """The published parameters at one time of a run."""

    tokens: int
    """Trained by all learners together."""
    merged_tokens: int
    time_s: float
    """Virtual time since the learners' first step."""
    loss: float
    """On held-out windows, in nats per token."""
    by_stretch: tuple[float, ...] = ()
    """The last look's, in each stretch of the held-out text."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a run. Bytes are of fragment bodies, all learners together."""

    looks: tuple[Look, ...]
    trained_tokens: int
    merged_tokens: int
    time_s: float
    goodput: float
    """Merged tokens as a share of what all learners would train in this time."""
    participation: float
    """Learners merged of learners live, over all rounds."""
    up_bytes: int
    down_bytes: int
    merges: int
    interruptions: int = 0
    diverged: str = ""
    """Why the run could not go on, where its numbers left the finite ones."""

    @property
    def loss(self) -> float:
        """At the end; infinite where the run diverged."""
        return float("inf") if self.diverged else self.looks[-1].loss


def simulate_training(
    settings: TrainingSettings, sources: Sources
) -> Iterator[Look | TrainingResult]:
    """Train in virtual time to the end of the budget; looks on the way, the result last."""
    run = _Run(settings, sources)
    looks: list[Look] = []
    diverged = ""
    try:
        for tokens in settings.looks():
            run.advance(tokens)
            looks.append(run.look())
            yield looks[-1]
        run.finish()
        looks[-1] = run.last_look()
    except GONE as error:
        diverged = str(error)
    yield run.result(tuple(looks), diverged)


class _Run:
    """A world with real tensors, and what is asked of it."""

    def __init__(self, settings: TrainingSettings, sources: Sources):
        self.settings = settings
        protocol = settings.protocol
        numbers = TensorSettings(
            settings.train,
            protocol.M,
            protocol.P,
            settings.merge,
            settings.uplink,
            protocol.alpha,
            settings.warm_steps,
        )
        self.payload = TensorPayload(numbers, sources)
        self.text = part_of(sources.held_out, settings.judged_on)
        self.world = _world(settings, self.payload)
        self.interruptions: list[float] = []
        self.began_s = 0.0
        self._begin()

    def _begin(self) -> None:
        first = self.settings.warm_tokens
        self._until(lambda: self.payload.trained_tokens > first)
        self.began_s = self.world.clock.now_s - self.settings.surroundings.step_s
        faults, seed = self.settings.surroundings.faults, self.settings.train.seed
        self.interruptions = interrupt(self.world, faults, seed, self._longest_s())

    def advance(self, tokens: int) -> None:
        """Until so many tokens are trained, or the run has ended."""
        self._until(lambda: self.payload.trained_tokens >= tokens or self._has_ended())

    def finish(self) -> None:
        """Until every fragment had its last round."""
        self._until(self._has_ended)

    def look(self) -> Look:
        """A glance at what is published."""
        now_s = self.world.clock.now_s - self.began_s
        loss = glance(self.payload.published(), self.settings.train, self.text)
        return Look(self.payload.trained_tokens, self.payload.merged_tokens(), now_s, loss)

    def last_look(self) -> Look:
        """A judgement of what the run leaves."""
        found = judge(self.payload.published(), self.settings.train, self.text)
        now_s = self.world.clock.now_s - self.began_s
        tokens, merged = self.payload.trained_tokens, self.payload.merged_tokens()
        return Look(tokens, merged, now_s, found.loss, found.by_stretch)

    def result(self, looks: tuple[Look, ...], diverged: str) -> TrainingResult:
        """What came of it."""
        time_s = looks[-1].time_s if looks else self.world.clock.now_s - self.began_s
        nodes = list(self.world.learners.values())
        settings = self.settings
        share = settings.train.step_tokens // settings.protocol.M
        able = sum(time_s / node.island.step_s * share for node in nodes)
        merged = self.payload.merged_tokens()
        tallies = [shard.core.state.tally for shard in self.world.shards]
        live = sum(tally.learners_live for tally in tallies)
        return TrainingResult(
            looks,
            self.payload.trained_tokens,
            merged,
            time_s,
            (merged - settings.warm_tokens) / able,
            sum(tally.learners_merged for tally in tallies) / max(1, live),
            sum(node.wire.up.num_bytes for node in nodes),
            sum(node.wire.down.num_bytes for node in nodes),
            sum(tally.merges for tally in tallies),
            sum(at_s <= self.world.clock.now_s for at_s in self.interruptions),
            diverged,
        )

    def _has_ended(self) -> bool:
        return self.world.coordinator.core.state.phase == ENDED

    def _until(self, done: Callable[[], bool]) -> None:
        if not self.world.run_until(done, self._longest_s()):
            words = self.world.coordinator.core.status()["waiting"] or "nothing is merged any more"
            raise TrainingStalled(f"the simulated run stands still: {words}")

    def _longest_s(self) -> float:
        settings = self.settings
        steps = settings.train.num_steps * settings.surroundings.slow_factor
        return 1_000.0 + 10 * steps * settings.surroundings.step_s


def _world(settings: TrainingSettings, payload: TensorPayload) -> World:
    protocol, surroundings = settings.protocol, settings.surroundings
    numels = tuple(each.numel for each in payload.layout.fragments)
    rate = surroundings.bytes_s(sum(numels))
    link = Link(surroundings.delay_s, up_bytes_s=rate, down_bytes_s=rate)
    base = Island("", surroundings.step_s, surroundings.step_jitter, link)
    islands = [
        replace(base, name=f"island-{number}", step_s=surroundings.step_s_of(number, protocol.M))
        for number in range(protocol.M)
    ]
    run = RunSettings(
        run="simulated",
        layout="layout",
        budget_tokens=settings.train.budget_tokens - settings.warm_tokens,
        initialise_s=1_000.0 + 10 * surroundings.model_transfer_s,
        fragment_sizes=numels,
    )
    sizes = BodySizes(
        up=tuple(encoded_bytes(settings.uplink, each) for each in numels),
        down=tuple(encoded_bytes(settings.merge.downlink_codec, each) for each in numels),
        full=tuple(encoded_bytes("fp32", each) for each in numels),
    )
    conditions = Conditions(seed=settings.train.seed, sizes=sizes, check=False)
    return World(protocol, run, islands, conditions, payload)
