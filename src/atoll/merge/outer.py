"""Outer optimizers: the averaged displacement, rounded to bf16, applied to the global fragment.

Float32, per fragment, the displacement pointing where the learners went:

    sgd        Theta <- Theta + lr * D
    nesterov   buf <- mu * buf + D;  Theta <- Theta + lr * (D + mu * buf)
    adam       Adam with D in the place of the negative gradient

Buffers of the model (batch-norm statistics and the like) are plainly averaged: Theta + D.

Over the first `ramp_merges` versions of a fragment rate and momentum go from a plain average
(`first_lr`, no momentum) to their values. What counts is the version, which is durable, so a
recovery or a replay takes the same steps.

Must never see a displacement that was not rounded to bf16 first: what the log holds is what is
applied. Always eager and elementwise, multiplications and additions rounded separately, so a
replay gives the same bits on any machine, whatever backend made the displacement. Returns new
tensors; what it was given stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Literal, assert_never

import torch
from torch import Tensor

from atoll.fragments.pieces import Fragment
from atoll.merge.codecs import chunk_bounds

OuterState = Mapping[str, Tensor]
RAMP_STEPS = 720
"""How long a ramp that is not given takes, in steps of a learner."""
RAMP_MERGES = 30
"""The same in merges, where H is 24."""


@dataclass(frozen=True, slots=True)
class OuterSettings:
    """The outer optimizer. `momentum` is nesterov's; the betas and `epsilon` are adam's.

    The defaults are the family's own, but that they come slowly: from random weights momentum
    does harm at first and good later (`docs/quality.md`).
    """

    kind: Literal["sgd", "nesterov", "adam"] = "nesterov"
    lr: float = 0.7
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    ramp_merges: int | Literal["auto"] = "auto"
    """Merges of a fragment over which lr and momentum go to their values; 0 begins with them,
    "auto" is as many as fit into 720 steps for nesterov, 30 where H is 24, and 0 for the others."""
    first_lr: float = 1.0
    """Where lr begins when it ramps; momentum begins at 0."""

    def __post_init__(self) -> None:
        if self.kind not in ("sgd", "nesterov", "adam"):
            raise ValueError(f"outer kind is {self.kind!r}: use 'sgd', 'nesterov' or 'adam'")
        for name in ("lr", "epsilon", "first_lr"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"outer {name} must be above 0 and finite")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"outer {name} is {getattr(self, name)}: use 0 or more, below 1")
        if self.ramp_merges != "auto" and self.ramp_merges < 0:
            raise ValueError(f"outer ramp_merges is {self.ramp_merges!r}: use 0 or more, or 'auto'")
        if self.num_ramp_merges and self.kind == "adam":
            raise ValueError("outer ramp_merges is for sgd and nesterov: set it to 0 for adam")

    @property
    def num_ramp_merges(self) -> int:
        """`ramp_merges` as a number."""
        if self.ramp_merges == "auto":
            return RAMP_MERGES if self.kind == "nesterov" else 0
        return self.ramp_merges

    def at(self, version: int) -> OuterSettings:
        """What makes `version` of a fragment; version 1 is the first merge."""
        assert version >= 1, "no outer step makes version 0"
        if version > self.num_ramp_merges:
            return self
        share = (version - 1) / self.num_ramp_merges
        lr = self.first_lr + (self.lr - self.first_lr) * share
        return replace(self, lr=lr, momentum=self.momentum * share)


def initial_state(settings: OuterSettings, numel: int) -> OuterState:
    """The optimizer's tensors before the first merge; they are all its state."""
    match settings.kind:
        case "sgd":
            return {}
        case "nesterov":
            return {"momentum": torch.zeros(numel)}
        case "adam":
            zeros = {"mean": torch.zeros(numel), "square": torch.zeros(numel)}
            return zeros | {"num_steps": torch.zeros((), dtype=torch.int64)}
        case _ as never:
            assert_never(never)


@torch.no_grad()
def outer_step(
    settings: OuterSettings, fragment: Fragment, theta: Tensor, state: OuterState, delta: Tensor
) -> tuple[Tensor, OuterState]:
    """Theta and the optimizer's state after `delta` (bf16)."""
    assert delta.dtype == torch.bfloat16, "the displacement is rounded to bf16 before it is applied"
    assert theta.shape == delta.shape == (fragment.numel,)
    new_theta = torch.empty_like(theta)
    new_state = {name: tensor.clone() for name, tensor in state.items()}
    if settings.kind == "adam":
        new_state["num_steps"] += 1
    for start, stop in chunk_bounds(fragment.numel):
        chunk = slice(start, stop)
        step = _step(settings, new_state, delta[chunk].to(torch.float32), chunk)
        torch.add(theta[chunk], step, out=new_theta[chunk])
    _average_buffers(fragment, theta, delta, new_theta, new_state)
    return new_theta, new_state


def _step(settings: OuterSettings, state: OuterState, delta: Tensor, chunk: slice) -> Tensor:
    """What to add to this chunk of Theta; updates the chunk of the state in place."""
    match settings.kind:
        case "sgd":
            return delta.mul_(settings.lr)
        case "nesterov":
            momentum = state["momentum"][chunk].mul_(settings.momentum).add_(delta)
            return (momentum * settings.momentum).add_(delta).mul_(settings.lr)
        case "adam":
            return _adam_step(settings, state, delta, chunk)
        case _ as never:
            assert_never(never)


def _adam_step(settings: OuterSettings, state: OuterState, delta: Tensor, chunk: slice) -> Tensor:
    num_steps = int(state["num_steps"].item())
    mean = state["mean"][chunk].mul_(settings.beta1).add_(delta * (1 - settings.beta1))
    fresh = (delta * delta).mul_(1 - settings.beta2)
    square = state["square"][chunk].mul_(settings.beta2).add_(fresh)
    root = square.sqrt().mul_(1 / sqrt(1 - settings.beta2**num_steps)).add_(settings.epsilon)
    return (mean * (settings.lr / (1 - settings.beta1**num_steps))).div_(root)


def _average_buffers(
    fragment: Fragment, theta: Tensor, delta: Tensor, new_theta: Tensor, new_state: OuterState
) -> None:
    for piece in fragment.pieces:
        if piece.is_buffer:
            span = slice(piece.offset, piece.stop)
            torch.add(theta[span], delta[span].to(torch.float32), out=new_theta[span])
            for tensor in new_state.values():
                if tensor.dim():
                    tensor[span] = 0.0
