"""Real tensors under simulated time: the reference model, real gradients, real merges.

Any number of learners in one process, deterministic for one seed. The cores decide, this does the
numbers they ask for, exactly as a learner and a syncer in processes of their own would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
from atoll.merge.merge import Contribution, FragmentMerger, FragmentState, MergeSettings
from atoll.train.data import Sources, load_batch
from atoll.train.model import build_model
from atoll.train.schedule import learning_rate_at
from atoll.train.settings import TrainSettings
from atoll.train.step import build_optimizer, evaluate, set_learning_rate, train_step

VERSIONS_KEPT = 9


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """The numeric side of a simulated run; `train.batch_size` is that of one learner."""

    train: TrainSettings
    num_fragments: int
    merge: MergeSettings = field(default_factory=MergeSettings)
    uplink_codec: Codec = "bf16"
    alpha: float = 0.5


@dataclass(slots=True)
class Learner:
    """One learner's model, and the copies its ferry keeps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    tensors: Mapping[str, Tensor]
    order: EpochOrder
    position: int = 0
    bases: dict[int, Tensor] = field(default_factory=dict)
    fetched: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    cuts: dict[tuple[int, int], Tensor] = field(default_factory=dict)


class TensorPayload:
    """Carries out the numeric half of the effects of a simulated run."""

    def __init__(self, settings: TensorSettings, sources: Sources):
        self.settings = settings
        self.sources = sources
        self.trained_tokens = 0
        self.losses: list[tuple[int, str, float]] = []
        self.learners: dict[str, Learner] = {}
        model = build_model(settings.train.model, settings.train.seed)
        self.layout = Layout.from_module(model, settings.num_fragments)
        self.mergers = [FragmentMerger(each, settings.merge) for each in self.layout.fragments]
        self.states: dict[int, FragmentState] = {}
        self.versions: dict[int, dict[int, Tensor]] = {}

    # ------------------------------------------------------------ a learner's side

    def start(self, learner: str) -> None:
        """A process begins: the seed's initial model, a fresh optimizer, its own order of data."""
        train = self.settings.train
        model = build_model(train.model, train.seed)
        number = len(self.learners)
        self.learners[learner] = Learner(
            model,
            build_optimizer(model, train.optimizer),
            tensors_of(model),
            EpochOrder(len(self.sources.train), train.seed * 1000 + number + 1),
        )

    def stop(self, learner: str) -> None:
        """The process and its copies are gone."""
        self.learners[learner].cuts.clear()

    def step(self, learner: str) -> int:
        """One inner step on the learner's own data."""
        me, train = self.learners[learner], self.settings.train
        size = train.batch_size
        indices = [me.order.at(me.position + offset) for offset in range(size)]
        me.position += size
        progress = min(1.0, self.trained_tokens / train.budget_tokens)
        set_learning_rate(me.optimizer, learning_rate_at(progress, train.optimizer))
        batch = load_batch(self.sources.train, indices)
        loss = train_step(me.model, me.optimizer, batch, train.step)
        tokens = int(batch.inputs.numel())
        self.trained_tokens += tokens
        self.losses.append((self.trained_tokens, learner, float(loss)))
        return tokens

    def cut(self, learner: str, fragment: int, number: int) -> None:
        """The displacement from the base, as it is now."""
        me = self.learners[learner]
        now = gather(self.layout, fragment, me.tensors)
        me.cuts[fragment, number] = now - me.bases[fragment]

    def upload(self, cut: Cut) -> bytes:
        """Encode; what is kept for the receipt is what the syncer will decode."""
        me, key = self.learners[cut.id.learner], (cut.fragment, cut.id.number)
        payload = encode(self.settings.uplink_codec, me.cuts[key])
        me.cuts[key] = decode(self.settings.uplink_codec, payload, me.cuts[key].numel())
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
                own -= me.cuts[fragment, order.accepted]
            if order.rule == "alpha":
                own = (now - published) * self.settings.alpha
            scatter_(self.layout, fragment, published + own, me.tensors)
        me.bases[fragment] = base
        me.fetched[fragment] = {v: t for v, t in me.fetched[fragment].items() if v > order.version}

    def forget(self, learner: str, fragment: int, number: int) -> None:
        """A cut's fate is known."""
        self.learners[learner].cuts.pop((fragment, number), None)

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
                contributions[f"{part.cut.id}/{order.fragment}"],
                part.weight,
                part.scale,
            )
            for part in order.parts
        ]
        merged = self.mergers[order.fragment].merge(self.states[order.fragment], parts)
        self._keep(order.fragment, merged.state)
        return merged.state.published.digest

    def evaluate(self, num_batches: int = 8) -> float:
        """Held-out loss of the published parameters, in nats per token."""
        train = self.settings.train
        model = build_model(train.model, train.seed)
        for fragment, state in self.states.items():
            scatter_(self.layout, fragment, state.published.values, tensors_of(model))
        held_out = self.sources.held_out
        return evaluate(model, held_out, num_batches, train.batch_size, train.step)

    def _keep(self, fragment: int, state: FragmentState) -> None:
        self.states[fragment] = state
        kept = self.versions.setdefault(fragment, {})
        kept[state.version] = state.published.values
        for version in [v for v in kept if v <= state.version - VERSIONS_KEPT]:
            del kept[version]
