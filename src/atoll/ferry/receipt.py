"""Receipt: what becomes of the parameters when a published version is installed.

    set    theta <- published
    keep   theta <- published + ((theta - base) - accepted)
    alpha  theta <- alpha * theta + (1 - alpha) * published

Flat fp32 values, in place, on any device. `base` is the version held before, as the island really
holds it: a bf16 island's own rounded values, so that rounding is never taken for work. Must never
write to `published`, `base` or `accepted`. Invariant: under "keep", nothing trained since a cut
that was merged exactly gives `published`, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.fragments import Layout


@dataclass(frozen=True, slots=True)
class Received:
    """What an install needs beside the parameters; on the parameters' device."""

    rule: str
    published: Tensor
    base: Tensor | None = None
    accepted: Tensor | None = None
    alpha: float = 0.0


def part_of(received: Received, start: int, stop: int) -> Received:
    """What an install of these values alone needs."""
    base, accepted = (
        None if whole is None else whole[start:stop] for whole in (received.base, received.accepted)
    )
    published = received.published[start:stop]
    return Received(received.rule, published, base, accepted, received.alpha)


@torch.no_grad()
def receive_(theta: Tensor, received: Received) -> Tensor:
    """The new parameters, in `theta`'s own memory."""
    match received.rule:
        case "set":
            return theta.copy_(received.published)
        case "keep":
            assert received.base is not None, "keep measures from a base"
            theta.sub_(received.base)
            if received.accepted is not None:
                theta.sub_(received.accepted)
            return theta.add_(received.published)
        case "alpha":
            share = 1.0 - received.alpha
            return theta.mul_(received.alpha).add_(received.published * share)
        case _:
            raise AssertionError(f"there is no receipt rule {received.rule!r}")


@torch.no_grad()
def as_held(
    layout: Layout, fragment: int, published: Tensor, dtypes: Mapping[str, torch.dtype]
) -> Tensor:
    """Published values as a model of these dtypes holds them; the same tensor where it can."""
    held = published
    for piece in layout.fragments[fragment].pieces:
        dtype = dtypes[piece.name]
        if dtype in (torch.float32, torch.float64):
            continue
        if held is published:
            held = published.clone()
        part = held[piece.offset : piece.stop]
        part.copy_(part.to(dtype))
    return held
