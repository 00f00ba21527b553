"""Tokens cut into windows, and windows gathered into batches.

One protocol for every source: a length, a description and `window(index)`. Windows never overlap,
so an index range is an exact share of the data and may be leased. Reading is stateless: which
window comes when is the business of `order`, and position is a number the caller keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

TokenArray = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


class TokenSource(Protocol):
    """What the trainer needs of data: map-style, of known length."""

    @property
    def description(self) -> str:
        """What was read, in words; shown beside every loss, since losses differ by data."""

    def __len__(self) -> int:
        """Number of windows."""

    def window(self, index: int) -> tuple[Ids, Ids]:
        """Inputs and targets, each `context` long; the targets are the inputs one token on."""


@dataclass(frozen=True, eq=False)
class Windows:
    """A `TokenSource` over one array of tokens, in memory or mapped from a file."""

    tokens: TokenArray
    context: int
    vocab_size: int
    description: str

    def __post_init__(self) -> None:
        if len(self) < 1:
            raise ValueError(
                f"{self.description}: {len(self.tokens)} tokens are less than one window of "
                f"{self.context + 1}; give more data, lower model.context, or set "
                "data.held_out_share so that both parts get some"
            )

    def __len__(self) -> int:
        return len(self.tokens) // (self.context + 1)

    def window(self, index: int) -> tuple[Ids, Ids]:
        """Inputs and targets number `index`, copied out of the array."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.description}: no window {index}, there are {len(self)}")
        start = index * (self.context + 1)
        ids = self.tokens[start : start + self.context + 1].astype(np.int64)
        if int(ids.max()) >= self.vocab_size:
            raise ValueError(
                f"{self.description}: window {index} holds token {ids.max()}, but "
                f"model.vocab_size is {self.vocab_size}; raise it, or check data.token_dtype"
            )
        return ids[:-1], ids[1:]


@dataclass(frozen=True)
class Sources:
    """What is trained on, and what never is."""

    train: TokenSource
    held_out: TokenSource


class Batch(NamedTuple):
    """Token ids, each [batch_size, context]."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(
            self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True)
        )


def load_batch(source: TokenSource, indices: Iterable[int]) -> Batch:
    """The windows at `indices`, stacked, on the CPU."""
    return stack([source.window(index) for index in indices])


def stack(windows: Sequence[tuple[Ids, Ids]]) -> Batch:
    """Windows as a batch, on the CPU."""
    inputs, targets = zip(*windows, strict=True)
    return Batch(torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets)))


@dataclass(frozen=True, eq=False)
class WindowsByIndex:
    """A `TokenSource` as the map-style data set that torch knows."""

    source: TokenSource

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Ids, Ids]:
        return self.source.window(index)
