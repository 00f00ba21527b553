"""What a layout is made of: tensors, their rows, and the fragments that hold them. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Kind = Literal["matrix", "vector", "embedding"]
Strategy = Literal["balanced", "layer", "strided"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that takes part, under its canonical name and with its global shape."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    is_buffer: bool = False
    """Averaged without outer optimizer (batch-norm statistics and the like)."""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def num_rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_numel(self) -> int:
        return prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `row_start` to `row_stop` of a tensor, at `offset` in the flat fragment."""

    name: str
    kind: Kind
    is_buffer: bool
    row_start: int
    row_stop: int
    offset: int
    numel: int

    @property
    def stop(self) -> int:
        return self.offset + self.numel


@dataclass(frozen=True, slots=True)
class Fragment:
    """The unit of synchronisation: pieces in model order, one flat fp32 vector."""

    pieces: tuple[Piece, ...]

    @property
    def numel(self) -> int:
        return self.pieces[-1].stop if self.pieces else 0
