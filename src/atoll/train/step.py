"""One optimizer step, and one evaluation.

A step never waits for the device: it returns its loss as a tensor. An evaluation reads the same
windows every time, changes nothing in the model and leaves it in the mode it found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from atoll.train.data import Batch, TokenSource, load_batch
from atoll.train.muon import MuonWithAdamW, split
from atoll.train.settings import OptimizerSettings, StepSettings


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over `model`, or Muon beside it; vectors (norms) are not decayed."""
    if settings.kind == "muon":
        return MuonWithAdamW(*split(model), settings)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, settings: StepSettings
) -> Tensor:
    """One step over `batch`; returns the mean loss in nats per token, still on the device."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for part in _micro_batches(batch, settings.num_micro_batches):
        with _precision(part.inputs.device, settings):
            _, loss = model(part.inputs, part.targets)
        loss = loss / settings.num_micro_batches
        loss.backward()
        losses.append(loss.detach())
    if math.isfinite(settings.clip_norm):
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    return torch.stack(losses).sum()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    source: TokenSource,
    num_batches: int,
    batch_size: int,
    settings: StepSettings,
) -> float:
    """Mean loss in nats per token over windows spread evenly through `source`."""
    num_windows = min(len(source), num_batches * batch_size)
    indices = [place * len(source) // num_windows for place in range(num_windows)]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total = 0.0
    try:
        for start in range(0, num_windows, batch_size):
            batch = load_batch(source, indices[start : start + batch_size]).to(device)
            with _precision(device, settings):
                _, loss = model(batch.inputs, batch.targets)
            total += float(loss) * len(batch.inputs)
    finally:
        model.train(was_training)
    return total / num_windows


def _micro_batches(batch: Batch, num_parts: int) -> Iterator[Batch]:
    batch_size = len(batch.inputs)
    if batch_size % num_parts:
        raise ValueError(
            f"a batch of {batch_size} does not divide into {num_parts} equal micro-batches; "
            "change batch_size or step.num_micro_batches"
        )
    part_size = batch_size // num_parts
    for start in range(0, batch_size, part_size):
        part = slice(start, start + part_size)
        yield Batch(batch.inputs[part], batch.targets[part])


def _precision(device: torch.device, settings: StepSettings) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.bf16)
