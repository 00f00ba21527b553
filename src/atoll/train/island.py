"""The same loop as `loop.py`, taking part in a run: one island of many.

Three lines differ from training alone: the learning rate follows the progress of the whole run,
batches come from the run's leases on data, and `learner.step` says that they were trained. Like
the plain loop it yields what happened, and never prints, writes files or opens connections.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from atoll.learner import Learner
from atoll.train.data import Batch, TokenSource, WindowsByIndex, stack
from atoll.train.model import Decoder
from atoll.train.schedule import learning_rate_at
from atoll.train.settings import TrainSettings
from atoll.train.step import set_learning_rate, train_step


@dataclass(frozen=True)
class IslandRecord:
    """One step of this island was trained."""

    step: int
    tokens: int
    """Tokens trained by this process so far."""
    loss: float
    learning_rate: float
    progress: float
    """Share of the run's budget that all islands have trained."""
    step_s: float
    """Duration of the step, the wait for `min_step_s` included."""
    repeated_items: int = 0
    """Items trained so far in an order of this life's own, because no lease was at hand."""


def train_on_island(
    settings: TrainSettings,
    learner: Learner,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    source: TokenSource,
    min_step_s: float = 0.0,
) -> Iterator[IslandRecord]:
    """Train until the run is over. `min_step_s` paces steps on a machine with few cores."""
    device = torch.device(settings.device)
    batches: Iterator[Batch] = learner.batches(
        WindowsByIndex(source), settings.batch_size, collate=stack
    )
    began_s = time.monotonic()
    for step, batch in enumerate(batches, start=1):
        learning_rate = learning_rate_at(learner.progress, settings.optimizer) * learner.warmup
        set_learning_rate(optimizer, learning_rate)
        loss = train_step(model, optimizer, batch.to(device), settings.step)
        time.sleep(max(0.0, began_s + min_step_s - time.monotonic()))

        learner.step(tokens=settings.step_tokens, loss=loss)
        took_s = time.monotonic() - began_s
        yield IslandRecord(
            step,
            step * settings.step_tokens,
            float(loss),
            learning_rate,
            learner.progress,
            took_s,
            learner.repeated_items,
        )
        began_s = time.monotonic()
