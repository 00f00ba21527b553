"""The plain loop: one process trains one model alone.

It is the baseline the decentralised runs are compared with: data-parallel training over M workers
with batch b is this loop with batch M * b. It yields what happened and leaves showing it to the
caller; it never prints, writes files or talks to anyone. Same settings and machine, same losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from atoll.core.order import EpochOrder
from atoll.train.data import Sources, load_batch
from atoll.train.model import Decoder
from atoll.train.schedule import learning_rate_at
from atoll.train.settings import TrainSettings
from atoll.train.step import build_optimizer, evaluate, set_learning_rate, train_step


@dataclass(frozen=True)
class StepRecord:
    """One step was trained."""

    step: int
    """Steps so far, this one included."""
    tokens: int
    """Tokens trained so far."""
    loss: float
    """Mean over this step's batch, in nats per token, before the step."""
    learning_rate: float


@dataclass(frozen=True)
class EvaluationRecord:
    """The model was measured on the held-out part."""

    step: int
    tokens: int
    loss: float
    """Mean over the same held-out windows every time, in nats per token."""


def train_alone(
    settings: TrainSettings, model: Decoder, sources: Sources
) -> Iterator[StepRecord | EvaluationRecord]:
    """Train `model` in place until the budget is met; ends with an evaluation."""
    device = torch.device(settings.device)
    model.to(device).train()
    optimizer = build_optimizer(model, settings.optimizer)
    order = EpochOrder(len(sources.train), settings.seed)
    for step in range(1, settings.num_steps + 1):
        positions = range((step - 1) * settings.batch_size, step * settings.batch_size)
        batch = load_batch(sources.train, map(order.at, positions)).to(device)

        tokens = step * settings.step_tokens
        progress = min(1.0, tokens / settings.budget_tokens)
        learning_rate = learning_rate_at(progress, settings.optimizer)
        set_learning_rate(optimizer, learning_rate)
        loss = train_step(model, optimizer, batch, settings.step)
        yield StepRecord(step, tokens, float(loss), learning_rate)

        if _evaluation_is_due(step, settings):
            held_out_loss = evaluate(
                model,
                sources.held_out,
                settings.num_evaluation_batches,
                settings.batch_size,
                settings.step,
            )
            yield EvaluationRecord(step, tokens, held_out_loss)


def _evaluation_is_due(step: int, settings: TrainSettings) -> bool:
    if step == settings.num_steps:
        return True
    return settings.evaluate_every_steps > 0 and step % settings.evaluate_every_steps == 0
