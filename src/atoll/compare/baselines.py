"""The methods in which everybody waits: data-parallel, local-step-1, synchronous DiLoCo.

* data-parallel: gradients averaged before one optimizer step. Learners with equal parts of a batch
  and averaged gradients are one process with the whole batch, so that is what is computed.
* local-step-1: every learner takes its own optimizer step, then parameters are averaged.
* data-parallel-averaged: the same run, judged by the mean of its weights over the last H steps, as
  a merge is a mean of models too.
* DiLoCo: H steps apart, then one merge of the whole model, which all take over.

Numbers are those of the simulator's learners: the same batches in the same order, the same
learning rate at the same token, the same codecs and merge.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from atoll.compare.pace import Pace
from atoll.core.order import EpochOrder
from atoll.fragments.access import gather, scatter_
from atoll.fragments.layout import Layout
from atoll.fragments.model import tensors_of
from atoll.merge.codecs import Codec, encoded_bytes
from atoll.merge.merge import Contribution, FragmentMerger
from atoll.simulator.judging import glance, judge, part_of
from atoll.simulator.tensors import (
    GONE,
    Lane,
    TensorSettings,
    encoded,
    scheduled_step,
    train_together,
)
from atoll.simulator.training import Look, TrainingResult, TrainingSettings
from atoll.train.data import Sources, load_batch
from atoll.train.model import Decoder
from atoll.train.step import build_optimizer

GRADIENT_CODEC: Codec = "bf16"
"""What data-parallel training and local-step-1 are charged for, per value."""


class Together:
    """Models that step at the same time, and what they exchange."""

    def __init__(self, settings: TrainingSettings, sources: Sources, num_models: int):
        self.settings = settings
        self.sources = sources
        self.text = part_of(sources.held_out, settings.judged_on)
        self.numbers = TensorSettings(settings.train, num_models, 1, warm_steps=settings.warm_steps)
        self.order = EpochOrder(len(sources.train), settings.train.seed)
        self.pace = Pace(settings)
        warm = train_together(self.numbers, sources, self.order)
        self.models = [copy.deepcopy(warm.model) for _ in range(num_models)]
        self.optimizers = [build_optimizer(m, settings.train.optimizer) for m in self.models]
        for optimizer in self.optimizers:
            optimizer.load_state_dict(copy.deepcopy(warm.optimizer_state))
        self.lanes = [Lane(number, settings.warm_steps) for number in range(num_models)]
        self.tokens = settings.warm_tokens
        self.up_bytes = self.down_bytes = self.exchanges = 0
        self.looks: list[Look] = []

    @property
    def num_params(self) -> int:
        """Parameters of one model."""
        return self.models[0].num_params

    def step(self) -> None:
        """Every model takes one step on its own part of the batch."""
        train = self.settings.train
        self.tokens += train.step_tokens
        for model, optimizer, lane in zip(self.models, self.optimizers, self.lanes, strict=True):
            batch = load_batch(self.sources.train, lane.indices(self.order, self.numbers))
            lane.step += 1
            scheduled_step(model, optimizer, batch, train, self.tokens)

    def exchange(self, up: int, down: int, *, at_once: bool = False) -> None:
        """Everybody sends and receives so many bytes, and waits for it."""
        num_learners = self.settings.protocol.M
        self.exchanges += 1
        self.up_bytes += num_learners * up
        self.down_bytes += num_learners * down
        self.pace.exchange(up, self.num_params)
        if not at_once:
            self.pace.exchange(down, self.num_params)

    def is_look_due(self) -> bool:
        """Whether the share of the budget is trained after which the next one comes."""
        due = self.settings.looks()
        return len(self.looks) < len(due) and self.tokens >= due[len(self.looks)]

    def looks_due(self, model: nn.Module) -> Iterator[Look]:
        """An evaluation where the next one is due; the last one is the judgement."""
        if self.is_look_due():
            is_last = len(self.looks) == self.settings.num_looks - 1
            self.looks.append(self._judgement(model) if is_last else self._glance(model))
            yield self.looks[-1]

    def _glance(self, model: nn.Module) -> Look:
        loss = glance(model, self.settings.train, self.text)
        return Look(self.tokens, self.tokens, self.pace.now_s, loss)

    def _judgement(self, model: nn.Module) -> Look:
        found = judge(model, self.settings.train, self.text)
        return Look(self.tokens, self.tokens, self.pace.now_s, found.loss, found.by_stretch)

    def result(self, diverged: str = "") -> TrainingResult:
        """What came of it: all that was trained is merged."""
        settings, time_s = self.settings, self.pace.now_s
        share = settings.train.step_tokens / settings.protocol.M
        surroundings, num_learners = settings.surroundings, settings.protocol.M
        able = sum(
            time_s / surroundings.step_s_of(m, num_learners) * share for m in range(num_learners)
        )
        return TrainingResult(
            tuple(self.looks),
            self.tokens,
            self.tokens,
            time_s,
            (self.tokens - settings.warm_tokens) / able,
            1.0,
            self.up_bytes,
            self.down_bytes,
            self.exchanges,
            self.pace.interruptions,
            diverged,
        )


def data_parallel(settings: TrainingSettings, sources: Sources) -> Iterator[Look | TrainingResult]:
    """One model over the whole batch; charged for an all-reduce of its gradients at every step."""
    run = Together(settings, sources, 1)
    return _whole(run, _in_step(run))


def data_parallel_averaged(
    settings: TrainingSettings, sources: Sources
) -> Iterator[Look | TrainingResult]:
    """As data-parallel; what is looked at is the mean of the weights of the last H steps."""
    run = Together(settings, sources, 1)
    return _whole(run, _in_step(run, settings.protocol.H))


def local_step_1(settings: TrainingSettings, sources: Sources) -> Iterator[Look | TrainingResult]:
    """Own optimizers, parameters averaged at every step."""
    run = Together(settings, sources, settings.protocol.M)
    return _whole(run, _in_step(run))


def diloco(settings: TrainingSettings, sources: Sources) -> Iterator[Look | TrainingResult]:
    """H steps apart, then everybody waits for one merge of the whole model and takes it over."""
    run = Together(settings, sources, settings.protocol.M)
    return _whole(run, _apart(run))


def _whole(run: Together, looks: Iterator[Look]) -> Iterator[Look | TrainingResult]:
    diverged = ""
    try:
        yield from looks
    except GONE as error:
        diverged = str(error)
    yield run.result(diverged)


def _in_step(run: Together, window: int = 1) -> Iterator[Look]:
    num_learners = run.settings.protocol.M
    ring = 2 * (num_learners - 1) / num_learners
    each_way = round(ring * encoded_bytes(GRADIENT_CODEC, run.num_params))
    recent: deque[nn.Module] = deque(maxlen=window)
    for _ in range(run.settings.warm_steps, run.settings.train.num_steps):
        run.step()
        run.pace.steps(1)
        _average(run.models)
        run.exchange(each_way, each_way, at_once=True)
        recent.append(run.models[0] if window == 1 else copy.deepcopy(run.models[0]))
        if run.is_look_due():
            yield from run.looks_due(_mean(recent))


def _apart(run: Together) -> Iterator[Look]:
    rounds = WholeRounds(run)
    step, num_steps = run.settings.warm_steps, run.settings.train.num_steps
    while step < num_steps:
        period = run.settings.protocol.period_steps(rounds.state.published.version)
        count = min(period, num_steps - step)
        for _ in range(count):
            run.step()
        step += count
        run.pace.steps(count)
        rounds.merge()
        run.exchange(rounds.up_bytes, rounds.down_bytes)
        yield from run.looks_due(run.models[0])


@torch.no_grad()
def _mean(models: Sequence[nn.Module]) -> nn.Module:
    if len(models) == 1:
        return models[0]
    mean = copy.deepcopy(models[0])
    for target, *tensors in zip(*(m.parameters() for m in (mean, *models)), strict=True):
        target.copy_(torch.stack(tensors).mean(dim=0))
    return mean


@torch.no_grad()
def _average(models: list[Decoder]) -> None:
    if len(models) == 1:
        return
    for tensors in zip(*(model.parameters() for model in models), strict=True):
        mean = torch.stack(tensors).mean(dim=0)
        for tensor in tensors:
            tensor.copy_(mean)


class WholeRounds:
    """The merges of the whole model as one fragment."""

    def __init__(self, run: Together):
        self.run = run
        self.uplink, merge = run.settings.uplink, run.settings.merge
        self.layout = Layout.from_module(run.models[0], 1)
        (fragment,) = self.layout.fragments
        self.merger = FragmentMerger(fragment, merge)
        self.state = self.merger.initial(self._flat(run.models[0]))
        self.up_bytes = encoded_bytes(self.uplink, fragment.numel)
        self.down_bytes = encoded_bytes(merge.downlink_codec, fragment.numel)

    def merge(self) -> None:
        """Displacements up, the next version down to everybody."""
        base = self.state.published.values
        parts = [
            Contribution(
                f"{number:04}", self.uplink, encoded(self.uplink, self._flat(model) - base), 1.0
            )
            for number, model in enumerate(self.run.models)
        ]
        self.state = self.merger.merge(self.state, parts).state
        for model in self.run.models:
            scatter_(self.layout, 0, self.state.published.values, tensors_of(model))

    def _flat(self, model: nn.Module) -> Tensor:
        return gather(self.layout, 0, tensors_of(model))
