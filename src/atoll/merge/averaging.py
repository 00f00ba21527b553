"""The merge rule: encoded displacements and their final weights -> one averaged displacement.

Per piece of the fragment, v being a decoded displacement times its scale factor:

* mean: sum(w v) / sum(w), for embeddings, vectors and buffers, and everywhere under `rule="mean"`;
* RDA: (sum(w |v|) / sum(w)) * phi(sum(w phi(v)) / sum(w)), phi(v) = v / |v|, phi(0) = 0, for
  matrices. Where the averaged direction is shorter than `min_cosine` the contributions cancel,
  its direction is noise, and the mean is taken instead (counted in the result).

Once the norms are known both are linear in the v, so one pass over the contributions does it, and
RDA adds a scaling by the norm of the outcome. Pure numbers: decides nothing about who is merged.
It must never let a non-finite value through. Invariants: norms are of decoded values, summed in
float64 over fixed rows; contributions are added in the order given; same input and backend, same
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from typing import Literal

import torch
from torch import Tensor

from atoll.fragments.pieces import Fragment, Piece
from atoll.merge.backends import Backend, BackendName, Parts
from atoll.merge.codecs import Codec, Payload, decode_range, split
from atoll.merge.rows import ROW_NUMEL, Cover, cover, row_parts

Rule = Literal["rda", "mean"]

SMALLEST_NORM = 1e-30
"""Below this a displacement counts as zero: its inverse must stay far inside fp32."""


@dataclass(frozen=True, slots=True)
class AveragingSettings:
    """How contributions become one displacement."""

    rule: Rule = "mean"
    min_cosine: float = 0.05
    """RDA falls back to the mean below this length of the averaged direction, 0 to 1. M
    orthogonal contributions of equal weight give 1/sqrt(M)."""

    def __post_init__(self) -> None:
        if self.rule not in ("rda", "mean"):
            raise ValueError(f"rule is {self.rule!r}: use 'rda' or 'mean'")
        if not 0 <= self.min_cosine < 1:
            raise ValueError(f"min_cosine is {self.min_cosine}: use 0 or more, and less than 1")


@dataclass(frozen=True, slots=True)
class PieceSums:
    """Sums of squares of a contribution's decoded values, by piece, and who computed them."""

    backend: BackendName
    values: tuple[float, ...]

    def is_finite(self) -> bool:
        return all(isfinite(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Share:
    """One contribution, ready to be averaged."""

    codec: Codec
    parts: Parts
    weight: float
    scale: float
    sums: PieceSums


@dataclass(frozen=True, slots=True)
class Average:
    """The averaged displacement, rounded to bf16, and the pieces where RDA gave way to the mean."""

    delta: Tensor
    fallback_pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Buffers:
    """Memory a merge works in. `total` takes one piece at a time, which keeps it small enough
    to be found in the cache again. Kept buffers spare the page faults of fresh memory, which cost
    as much as the merge; the outcome lies in `delta` until they are used again.
    """

    total: Tensor
    delta: Tensor

    @classmethod
    def for_fragment(cls, fragment: Fragment) -> Buffers:
        largest_numel = max(piece.numel for piece in fragment.pieces)
        delta = torch.empty(fragment.numel, dtype=torch.bfloat16)
        return cls(torch.empty(largest_numel, dtype=torch.float32), delta)


def sums_of_squares(
    fragment: Fragment, codec: Codec, payload: Payload, backend: Backend
) -> PieceSums:
    """What the syncer computes when a contribution arrives; not finite if any value is not."""
    parts = split(codec, payload, fragment.numel)
    values = [_sum_of_squares(codec, parts, cover(piece), backend) for piece in fragment.pieces]
    return PieceSums(backend.name, tuple(values))


def average(
    fragment: Fragment,
    shares: Sequence[Share],
    settings: AveragingSettings,
    backend: Backend,
    buffers: Buffers | None = None,
) -> Average:
    """The averaged displacement, in fresh memory or in kept `buffers`."""
    assert shares, "a merge has at least one contribution"
    if buffers is None:
        buffers = Buffers.for_fragment(fragment)
    delta = buffers.delta[: fragment.numel]
    averager = _Averager(shares, settings, backend, buffers.total, delta)
    fell_back = [averager.run(index, piece) for index, piece in enumerate(fragment.pieces)]
    names = [piece.name for piece, fell in zip(fragment.pieces, fell_back, strict=True) if fell]
    return Average(delta, tuple(names))


@dataclass(frozen=True, slots=True)
class _Averager:
    shares: Sequence[Share]
    settings: AveragingSettings
    backend: Backend
    total: Tensor
    delta: Tensor

    @torch.no_grad()
    def run(self, index: int, piece: Piece) -> bool:
        """Average one piece into `delta`; whether RDA gave way to the mean."""
        where = cover(piece)
        is_rda = self.settings.rule == "rda" and piece.kind == "matrix" and not piece.is_buffer
        # one contribution alone: both rules give it back, the mean exactly
        has_cancelled = is_rda and len(self.shares) > 1 and not self._run_rda(index, where)
        if not is_rda or len(self.shares) == 1 or has_cancelled:
            self._accumulate(where, mean_coefficients(self._weights(), self._scales()))
            self._write(where, 1.0)
        return has_cancelled

    def _run_rda(self, index: int, where: Cover) -> bool:
        """False, and nothing written, where the directions cancel."""
        norms = [sqrt(share.sums.values[index]) for share in self.shares]
        self._accumulate(where, direction_coefficients(self._weights(), norms))
        cosine = self._norm(where)
        if cosine < self.settings.min_cosine and max(norms) >= SMALLEST_NORM:
            return False
        lengths = [norm * scale for norm, scale in zip(norms, self._scales(), strict=True)]
        length = weighted_mean(self._weights(), lengths)
        self._write(where, length / cosine if cosine > 0 else 0.0)
        return True

    def _weights(self) -> list[float]:
        return [share.weight for share in self.shares]

    def _scales(self) -> list[float]:
        return [share.scale for share in self.shares]

    def _accumulate(self, where: Cover, coefficients: Sequence[float]) -> None:
        factors = torch.tensor(coefficients, dtype=torch.float32)
        if where.num_rows:
            codecs = [share.codec for share in self.shares]
            parts = [row_parts(share.codec, share.parts, *where.body) for share in self.shares]
            self.backend.accumulate(codecs, parts, factors, self._body(where))
        for edge, target in self._edges(where):
            target.zero_()
            for share, factor in zip(self.shares, factors, strict=True):
                target.add_(decode_range(share.codec, share.parts, *edge) * factor)

    def _write(self, where: Cover, factor: float) -> None:
        scalar = torch.tensor(factor, dtype=torch.float32)
        if where.num_rows:
            start, stop = where.body
            delta_rows = self.delta[start * ROW_NUMEL : stop * ROW_NUMEL].view(-1, ROW_NUMEL)
            self.backend.scale_to_bf16(self._body(where), scalar, delta_rows)
        for edge, source in self._edges(where):
            self.delta[slice(*edge)] = source * scalar

    def _norm(self, where: Cover) -> float:
        partial: list[float] = []
        if where.num_rows:
            partial += self.backend.row_sums("fp32", (self._body(where),)).tolist()
        partial += [_small_sum(values) for _, values in self._edges(where)]
        return sqrt(fsum(partial))

    def _body(self, where: Cover) -> Tensor:
        """The piece's whole rows come first in `total`, its edges behind them."""
        return self.total[: where.num_rows * ROW_NUMEL].view(-1, ROW_NUMEL)

    def _edges(self, where: Cover) -> Iterator[tuple[tuple[int, int], Tensor]]:
        start = where.num_rows * ROW_NUMEL
        for edge in where.edges:
            stop = start + edge[1] - edge[0]
            yield edge, self.total[start:stop]
            start = stop


def _sum_of_squares(codec: Codec, parts: Parts, where: Cover, backend: Backend) -> float:
    """In float64. `fsum` rounds once, so the order of the partial sums does not matter."""
    partial: list[float] = []
    if where.num_rows:
        partial += backend.row_sums(codec, row_parts(codec, parts, *where.body)).tolist()
    partial += [_small_sum(decode_range(codec, parts, *edge)) for edge in where.edges]
    return fsum(partial)


def _small_sum(edge: Tensor) -> float:
    """An edge is shorter than what torch would sum with several threads."""
    return float(edge.to(torch.float64).square().sum().item())


# the numbers of the rule, in Python floats


def mean_coefficients(weights: Sequence[float], scales: Sequence[float]) -> list[float]:
    """Factors of the decoded displacements in the mean."""
    total = fsum(weights)
    return [weight / total * scale for weight, scale in zip(weights, scales, strict=True)]


def direction_coefficients(weights: Sequence[float], norms: Sequence[float]) -> list[float]:
    """Factors of the decoded displacements in the averaged direction, from the norms of the
    *decoded* displacements: a scale factor is positive and turns nothing.
    """
    total = fsum(weights)
    return [
        weight / total / norm if norm >= SMALLEST_NORM else 0.0
        for weight, norm in zip(weights, norms, strict=True)
    ]


def weighted_mean(weights: Sequence[float], values: Sequence[float]) -> float:
    """sum(w x) / sum(w)."""
    pairs = zip(weights, values, strict=True)
    return fsum(weight * value for weight, value in pairs) / fsum(weights)
