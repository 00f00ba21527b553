"""Where work on a flat fragment is cut: rows of one fixed size, and the edges that are left.

Plain arithmetic. A row is a whole number of every codec's blocks. Each piece of a fragment is a
run of whole rows (its body, what compiled kernels take) and up to two edges. Invariant: body and
edges cover the piece once, and where they lie depends on the layout alone, so partial sums are
always taken over the same values in the same order, however many threads there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atoll.fragments.pieces import Piece
from atoll.merge.codecs import BLOCK_NUMEL, Codec

ROW_NUMEL = 4096
MIN_BODY_ROWS = 2


@dataclass(frozen=True, slots=True)
class Cover:
    """A piece as a run of whole rows (row numbers; may be empty) and edges (value numbers)."""

    body: tuple[int, int]
    edges: tuple[tuple[int, int], ...]

    @property
    def num_rows(self) -> int:
        return self.body[1] - self.body[0]


def cover(piece: Piece) -> Cover:
    """Body and edges of a piece; one with too few whole rows is all edge."""
    first, last = -(-piece.offset // ROW_NUMEL), piece.stop // ROW_NUMEL
    if last - first < MIN_BODY_ROWS:
        return Cover((0, 0), ((piece.offset, piece.stop),))
    edges = ((piece.offset, first * ROW_NUMEL), (last * ROW_NUMEL, piece.stop))
    return Cover((first, last), tuple(edge for edge in edges if edge[0] < edge[1]))


def row_parts(codec: Codec, parts: tuple[Tensor, ...], start: int, stop: int) -> tuple[Tensor, ...]:
    """Rows `start` to `stop` of a split payload: each part as [rows, ...], no copy."""
    num_rows = stop - start
    if codec in ("fp32", "bf16"):
        values = parts[0][start * ROW_NUMEL : stop * ROW_NUMEL]
        return (values.view(num_rows, ROW_NUMEL),)
    per_row = ROW_NUMEL // BLOCK_NUMEL[codec]
    scales, codes = (part[start * per_row : stop * per_row] for part in parts)
    return (scales.view(num_rows, per_row), codes.view(num_rows, per_row, -1))
