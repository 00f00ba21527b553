"""How tensors are cut into fragments: balanced, by layer, or strided over layers.

Pure arithmetic on descriptions; same description in, same cut out, for every party. Ties are
broken by the tensors' order, then by row, then by bin number. It must never look at a tensor.

* `balanced`: a tensor above N/P elements is split along its first dimension; then the largest
  piece goes into the smallest bin. Embeddings get fragments of their own where the balance
  allows it (largest bin at most 4/3 of N/P), else they are mixed with the rest.
* `layer`: neighbouring layers share a fragment; `strided`: layer i goes to fragment i mod P.
  Both keep tensors whole. A layer is what shares a name up to its first number.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

from atoll.fragments.pieces import Fragment, Piece, Strategy, TensorSpec

MAX_REFINEMENT = 8
"""Tensors are split at most this much finer than N/P for the sake of balance."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Rows of one tensor, before it is known in which fragment they lie."""

    tensor_index: int
    row_start: int
    row_stop: int
    numel: int


Bins = list[list[Part]]


def cut(
    tensors: Sequence[TensorSpec], num_fragments: int, strategy: Strategy
) -> tuple[Fragment, ...]:
    """Every row of `tensors` into exactly one of `num_fragments` fragments, none empty."""
    _refuse_impossible(tensors, num_fragments)
    match strategy:
        case "balanced":
            bins = _balanced(tensors, num_fragments)
        case "layer" | "strided":
            bins = _by_layer(tensors, num_fragments, strategy)
        case _ as never:
            assert_never(never)
    return tuple(_fragment(tensors, sorted(parts)) for parts in bins)


def _refuse_impossible(tensors: Sequence[TensorSpec], num_fragments: int) -> None:
    if not tensors:
        raise ValueError("no tensor takes part: give at least one that trains")
    if num_fragments < 1:
        raise ValueError(f"num_fragments is {num_fragments}: set it to 1 or more")
    for spec in tensors:
        if spec.numel == 0:
            raise ValueError(f"{spec.name} has no elements: leave it out")
    num_rows = sum(spec.num_rows for spec in tensors)
    if num_fragments > num_rows:
        raise ValueError(
            f"{num_fragments} fragments cannot be cut from {num_rows} rows (tensors are split "
            f"along their first dimension only): set num_fragments to {num_rows} or less"
        )


def _fragment(tensors: Sequence[TensorSpec], parts: Sequence[Part]) -> Fragment:
    pieces = []
    offset = 0
    for part in parts:
        spec = tensors[part.tensor_index]
        rows = (part.row_start, part.row_stop)
        pieces.append(Piece(spec.name, spec.kind, spec.is_buffer, *rows, offset, part.numel))
        offset += part.numel
    return Fragment(tuple(pieces))


# balanced


def _balanced(tensors: Sequence[TensorSpec], num_fragments: int) -> Bins:
    """The first try that is balanced; if none is, the one with the smallest largest bin."""
    mean_numel = sum(spec.numel for spec in tensors) / num_fragments
    target_numel = max(mean_numel, *(spec.row_numel for spec in tensors)) * 4 / 3
    tries: list[Bins] = []
    for embedding_bins in _shares_for_embeddings(tensors, num_fragments):
        refinement = 1
        while True:
            limit_numel = mean_numel / refinement
            bins = _pack(tensors, num_fragments, embedding_bins, limit_numel)
            is_full = all(bins)
            if is_full and _largest_numel(bins) <= target_numel:
                return bins
            if is_full:
                tries.append(bins)
            if limit_numel < 1 or (is_full and refinement >= MAX_REFINEMENT):
                break
            refinement *= 2
    assert tries, "single rows always fill all bins"
    return min(tries, key=_largest_numel)


def _largest_numel(bins: Bins) -> int:
    return max(sum(part.numel for part in parts) for parts in bins)


def _shares_for_embeddings(tensors: Sequence[TensorSpec], num_fragments: int) -> list[int]:
    """Numbers of bins to try for the embeddings alone, best first; 0 mixes them in."""
    embedding_numel = sum(spec.numel for spec in tensors if spec.kind == "embedding")
    numel = sum(spec.numel for spec in tensors)
    if num_fragments < 2 or embedding_numel in (0, numel):
        return [0]
    share = embedding_numel * num_fragments // numel
    nearest_first = sorted({max(1, share), share + 1}, key=lambda n: _share_error(n, tensors))
    return [n for n in nearest_first if n < num_fragments] + [0]


def _share_error(num_bins: int, tensors: Sequence[TensorSpec]) -> tuple[int, int]:
    embedding_numel = sum(spec.numel for spec in tensors if spec.kind == "embedding")
    return (-(-embedding_numel // num_bins), num_bins)


def _pack(
    tensors: Sequence[TensorSpec], num_fragments: int, embedding_bins: int, limit_numel: float
) -> Bins:
    embeddings: list[Part] = []
    others: list[Part] = []
    for index, spec in enumerate(tensors):
        is_apart = embedding_bins > 0 and spec.kind == "embedding"
        (embeddings if is_apart else others).extend(_split(index, spec, limit_numel))
    apart = _largest_first(embeddings, embedding_bins)
    return apart + _largest_first(others, num_fragments - embedding_bins)


def _split(index: int, spec: TensorSpec, limit_numel: float) -> list[Part]:
    """Near-equal row ranges, as many as bring each to the limit or to a single row."""
    num_parts = min(spec.num_rows, -int(-spec.numel // limit_numel))
    bounds = [i * spec.num_rows // num_parts for i in range(num_parts + 1)]
    return [
        Part(index, start, stop, (stop - start) * spec.row_numel)
        for start, stop in pairwise(bounds)
    ]


def _largest_first(parts: Sequence[Part], num_bins: int) -> Bins:
    """Largest part into the smallest bin (at most 4/3 of the best possible largest bin)."""
    bins: Bins = [[] for _ in range(num_bins)]
    loads = [(0, number) for number in range(num_bins)]
    for part in sorted(parts, key=lambda p: (-p.numel, p)):
        load, number = loads[0]
        bins[number].append(part)
        heapq.heapreplace(loads, (load + part.numel, number))
    return bins


# by layer


def _by_layer(tensors: Sequence[TensorSpec], num_fragments: int, strategy: Strategy) -> Bins:
    layers: dict[str, list[Part]] = {}
    for index, spec in enumerate(tensors):
        whole = Part(index, 0, spec.num_rows, spec.numel)
        layers.setdefault(layer_of(spec.name), []).append(whole)
    if num_fragments > len(layers):
        raise ValueError(
            f"{num_fragments} fragments from {len(layers)} layers: set num_fragments to "
            f"{len(layers)} or less, or the strategy to 'balanced', which splits tensors"
        )
    bins: Bins = [[] for _ in range(num_fragments)]
    for number, parts in enumerate(layers.values()):
        strided = number % num_fragments
        neighbours = number * num_fragments // len(layers)
        bins[strided if strategy == "strided" else neighbours].extend(parts)
    return bins


def layer_of(name: str) -> str:
    """`blocks.3.attn.weight` -> `blocks.3`; a name without a number -> its first two parts."""
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: position + 1])
    return ".".join(parts[:-1][:2]) or name
