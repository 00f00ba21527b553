"""One optimizer step, and one evaluation.

A step never waits for the device: it returns its loss as a tensor. An evaluation reads the same
windows every time, changes nothing in the model and leaves it in the mode it found.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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
    with _products(batch.inputs.device, settings):
        for part in _micro_batches(batch, settings.num_micro_batches):
            loss = _loss(model, part, settings) / settings.num_micro_batches
            torch.autograd.backward(loss)
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
            with _products(device, settings):
                loss = _loss(model, batch, settings)
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


def _loss(model: nn.Module, batch: Batch, settings: StepSettings) -> Tensor:
    forward = _compiled() if settings.compile else _forward
    with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
        return forward(model, batch.inputs, batch.targets)


def _forward(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = model(inputs, targets)[1]
    return loss


@functools.cache
def _compiled() -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """One for all models of a shape; each shape of a batch is compiled by itself."""
    from torch._dynamo import config  # late: it takes a second

    config.recompile_limit = 64  # beyond it torch goes on without compiling, and only warns
    return torch.compile(_forward, dynamic=False)


@contextmanager
def _products(device: torch.device, settings: StepSettings) -> Iterator[None]:
    """Products of float32 matrices, backward ones too, are as exact as asked for."""
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        if settings.matmul != before:
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision(settings.matmul)
        if settings.matmul != "highest" and device.type == "cpu":
            # torch's fused attention for the processor takes twice as long then.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
