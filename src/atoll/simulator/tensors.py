"""Real tensors under simulated time: the reference model, real gradients, real merges.

Any number of learners in one process, deterministic for one seed. The cores decide, this does the
numbers they ask for, exactly as a learner and a syncer in processes of their own would.

All learners together read the data in the order in which one process with their common batch
would: step k of learner m takes part m of batch k. So runs of any number of learners, and the
data-parallel baseline, train on the same windows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atoll.core.effects import InstallOrder, Merge
from atoll.core.ids import Cut
from atoll.core.order import EpochOrder
from atoll.fragments.access import gather, scatter_
from atoll.fragments.layout import Layout
from atoll.fragments.model import tensors_of
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.codecs import Codec, decode, encode
from atoll.merge.merge import (
    Contribution,
    ContributionError,
    FragmentMerger,
    FragmentState,
    MergeError,
    MergeSettings,
)
from atoll.simulator.judging import Diverged
from atoll.train.data import Batch, Sources, load_batch
from atoll.train.model import Decoder, build_model
from atoll.train.schedule import learning_rate_at
from atoll.train.settings import TrainSettings
from atoll.train.step import build_optimizer, set_learning_rate, train_step

VERSIONS_KEPT = 9
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state tensors, each of its parameter's shape."""


GONE = (Diverged, MergeError, ContributionError)
"""What ends a run whose numbers are no use any more."""


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """The numeric side of a simulated run."""

    train: TrainSettings
    """`batch_size` is that of all learners together."""
    num_learners: int
    num_fragments: int
    merge: MergeSettings = field(default_factory=MergeSettings)
    uplink_codec: Codec = "bf16"
    alpha: float = 0.5
    warm_steps: int = 0
    """Steps of data-parallel training that version 0 has behind it."""

    def __post_init__(self) -> None:
        if self.train.batch_size % self.num_learners:
            raise ValueError(
                f"batch_size {self.train.batch_size} is that of all learners together and does not "
                f"divide among {self.num_learners}: make it a multiple of that"
            )

    @property
    def share(self) -> int:
        """Windows of one learner's step."""
        return self.train.batch_size // self.num_learners


@dataclass(slots=True)
class Lane:
    """One learner's part of the common order of data; outlives the learner's process."""

    number: int
    step: int

    def indices(self, order: EpochOrder, settings: TensorSettings) -> list[int]:
        """The windows of the next step."""
        first = self.step * settings.train.batch_size + self.number * settings.share
        return [order.at(first + offset) for offset in range(settings.share)]


@dataclass(slots=True)
class Learner:
    """One learner's model, and the copies its ferry keeps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    tensors: Mapping[str, Tensor]
    bases: dict[int, Tensor] = field(default_factory=dict)
    fetched: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    cuts: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    idle_tokens: int = 0
    """Counted by the cores, but not trained: the budget was spent."""
    idle_at: dict[tuple[int, int], int] = field(default_factory=dict)

    def moments(self, key: str) -> dict[str, Tensor]:
        """One of the optimizer's state tensors by the name of its parameter."""
        return {name: self._state(tensor)[key] for name, tensor in self.tensors.items()}

    def num_steps(self) -> float:
        """Steps that the optimizer counts."""
        return max(float(self._state(tensor)["step"]) for tensor in self.tensors.values())

    def set_num_steps(self, count: float) -> None:
        """The optimizer's state is that of so many steps."""
        for tensor in self.tensors.values():
            self._state(tensor)["step"].fill_(count)

    def _state(self, tensor: Tensor) -> dict[str, Tensor]:
        """The optimizer's state of a parameter, made as AdamW would at its first step."""
        state: dict[str, Tensor] = self.optimizer.state[tensor]
        if not state:
            state["step"] = torch.zeros(())
            for key in MOMENTS:
                state[key] = torch.zeros_like(tensor)
        return state


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A model trained data-parallel for a while, and its optimizer's state."""

    model: Decoder
    optimizer_state: dict[str, Any]


class TensorPayload:
    """Carries out the numeric half of the effects of a simulated run."""

    def __init__(self, settings: TensorSettings, sources: Sources):
        self.settings = settings
        self.sources = sources
        self.order = EpochOrder(len(sources.train), settings.train.seed)
        self.trained_tokens = settings.warm_steps * settings.train.step_tokens
        self.trained_in: dict[str, int] = {}
        self.losses: list[tuple[int, str, float]] = []
        self.lanes: dict[str, Lane] = {}
        self.learners: dict[str, Learner] = {}
        self.first = train_together(settings, sources, self.order)
        self.layout = Layout.from_module(self.first.model, settings.num_fragments)
        self.mergers = [FragmentMerger(each, settings.merge) for each in self.layout.fragments]
        self.states: dict[int, FragmentState] = {}
        self.versions: dict[int, dict[int, Tensor]] = {}
        self.merged = [0] * settings.num_fragments

    def merged_tokens(self) -> int:
        """Trained tokens whose work is merged: the mean over fragments, weighted by their sizes."""
        sizes = [each.numel for each in self.layout.fragments]
        weighed = sum(size * tokens for size, tokens in zip(sizes, self.merged, strict=True))
        return self.settings.warm_steps * self.settings.train.step_tokens + weighed // sum(sizes)

    # ------------------------------------------------------------ a learner's side

    def start(self, learner: str) -> None:
        """A process begins. Only a learner's first one has the optimizer of the warm start."""
        model = copy.deepcopy(self.first.model)
        optimizer = build_optimizer(model, self.settings.train.optimizer)
        if learner not in self.lanes:
            self.lanes[learner] = Lane(len(self.lanes), self.settings.warm_steps)
            optimizer.load_state_dict(copy.deepcopy(self.first.optimizer_state))
        self.learners[learner] = Learner(model, optimizer, tensors_of(model))

    def stop(self, learner: str) -> None:
        """The process and its copies are gone."""
        self.learners[learner].cuts.clear()

    def step(self, learner: str) -> int:
        """One inner step on the learner's own data. The budget is spent to the token: while the
        last rounds are on their way nothing is trained any more.
        """
        me, lane, train = self.learners[learner], self.lanes[learner], self.settings.train
        tokens = self.settings.share * train.model.context
        if self.trained_tokens >= train.budget_tokens:
            me.idle_tokens += tokens
            return tokens
        batch = load_batch(self.sources.train, lane.indices(self.order, self.settings))
        lane.step += 1
        self.trained_tokens += tokens
        loss = scheduled_step(me.model, me.optimizer, batch, train, self.trained_tokens)
        self.losses.append((self.trained_tokens, learner, loss))
        return tokens

    def cut(self, learner: str, fragment: int, number: int) -> None:
        """The displacement from the base, as it is now."""
        me = self.learners[learner]
        now = gather(self.layout, fragment, me.tensors)
        me.cuts[fragment, number] = now - me.bases[fragment]
        me.idle_at[fragment, number] = me.idle_tokens

    def upload(self, cut: Cut) -> bytes:
        """Encode; what is kept for the receipt is what the syncer will decode."""
        me, key = self.learners[cut.id.learner], (cut.fragment, cut.id.number)
        payload = encoded(self.settings.uplink_codec, me.cuts[key])
        me.cuts[key] = decode(self.settings.uplink_codec, payload, me.cuts[key].numel())
        self.trained_in[name_of(cut)] = max(0, cut.tokens - me.idle_at[key])
        return bytes(byte_view(payload))

    def fetch(self, learner: str, fragment: int, version: int) -> None:
        """A published version reaches the learner."""
        kept = self.learners[learner].fetched.setdefault(fragment, {})
        kept[version] = self.versions[fragment][version]

    def install(self, learner: str, order: InstallOrder) -> None:
        """Put a version into the model by the receipt rule that was decided."""
        me, fragment = self.learners[learner], order.fragment
        published = me.fetched[fragment].pop(order.version)
        now = gather(self.layout, fragment, me.tensors)
        scatter_(self.layout, fragment, published, me.tensors)
        base = gather(self.layout, fragment, me.tensors)
        if order.rule != "set":
            own = now - me.bases[fragment]
            if order.rule == "keep" and order.accepted >= 0:
                own -= me.cuts[fragment, order.accepted] * order.scale
            if order.rule == "alpha":
                own = (now - published) * self.settings.alpha
            scatter_(self.layout, fragment, published + own, me.tensors)
        me.bases[fragment] = base
        me.fetched[fragment] = {v: t for v, t in me.fetched[fragment].items() if v > order.version}

    def forget(self, learner: str, fragment: int, number: int) -> None:
        """A cut's fate is known."""
        self.learners[learner].cuts.pop((fragment, number), None)
        self.learners[learner].idle_at.pop((fragment, number), None)

    def lend(self, learner: str, fragment: int) -> bytes:
        """A copy of the moments of a fragment, and of the steps they are from."""
        me = self.learners[learner]
        kept = [gather(self.layout, fragment, me.moments(key)) for key in MOMENTS]
        return bytes(byte_view(torch.cat([*kept, torch.tensor([float(me.num_steps())])])))

    def inherit(self, learner: str, bodies: dict[int, bytes]) -> None:
        """Take over a peer's moments, all fragments by number."""
        me = self.learners[learner]
        for fragment, body in sorted(bodies.items()):
            values = torch.frombuffer(bytearray(body), dtype=torch.float32)
            parts = values[:-1].chunk(len(MOMENTS))
            for key, part in zip(MOMENTS, parts, strict=True):
                scatter_(self.layout, fragment, part, me.moments(key))
            me.set_num_steps(float(values[-1]))

    # ------------------------------------------------------------ the syncer's side

    def initial(self, learner: str, fragment: int) -> str:
        """Version 0, from this learner's parameters."""
        theta = gather(self.layout, fragment, self.learners[learner].tensors)
        self._keep(fragment, self.mergers[fragment].initial(theta))
        return self.states[fragment].published.digest

    def merge(self, order: Merge, contributions: dict[str, bytes]) -> str:
        """Decode, weigh, average, outer step, publish."""
        parts = [
            Contribution(
                str(part.cut.id),
                self.settings.uplink_codec,
                contributions[name_of(part.cut)],
                part.weight,
                part.scale,
            )
            for part in order.parts
        ]
        for part in order.parts:
            self.merged[order.fragment] += self.trained_in.pop(name_of(part.cut))
        merged = self.mergers[order.fragment].merge(self.states[order.fragment], parts)
        self._keep(order.fragment, merged.state)
        return merged.state.published.digest

    def published(self) -> nn.Module:
        """A model with the published parameters."""
        model = copy.deepcopy(self.first.model)
        for fragment, state in self.states.items():
            scatter_(self.layout, fragment, state.published.values, tensors_of(model))
        return model

    def _keep(self, fragment: int, state: FragmentState) -> None:
        self.states[fragment] = state
        kept = self.versions.setdefault(fragment, {})
        kept[state.version] = state.published.values
        for version in [v for v in kept if v <= state.version - VERSIONS_KEPT]:
            del kept[version]


# ---------------------------------------------------------------- what every method does alike


def name_of(cut: Cut) -> str:
    """A contribution's name among those of all fragments."""
    return f"{cut.id}/{cut.fragment}"


def scheduled_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    train: TrainSettings,
    trained_tokens: int,
) -> float:
    """One inner step at the rate that the run's tokens, this step included, ask for."""
    progress = min(1.0, trained_tokens / train.budget_tokens)
    set_learning_rate(optimizer, learning_rate_at(progress, train.optimizer))
    return float(train_step(model, optimizer, batch, train.step))


def encoded(codec: Codec, displacement: Tensor) -> Tensor:
    """What travels of a displacement."""
    try:
        return encode(codec, displacement)
    except ValueError as error:
        raise Diverged(f"a displacement cannot be sent: {error}") from error


def train_together(settings: TensorSettings, sources: Sources, order: EpochOrder) -> WarmStart:
    """The seed's initial model after `warm_steps` steps over the batches of all learners."""
    train = settings.train
    model = build_model(train.model, train.seed)
    optimizer = build_optimizer(model, train.optimizer)
    for step in range(settings.warm_steps):
        places = range(step * train.batch_size, (step + 1) * train.batch_size)
        batch = load_batch(sources.train, map(order.at, places))
        scheduled_step(model, optimizer, batch, train, (step + 1) * train.step_tokens)
    return WarmStart(model, optimizer.state_dict())
