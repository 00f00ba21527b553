"""The two ways to run the merge's inner loops over whole rows: `eager` and `compiled`.

The loops are written once, as plain torch functions: decode every contribution, multiply by its
coefficient, add, in the order given; and sums of squares per row in float64. The compiled backend
hands the same functions to `torch.compile`, once per codec and group size with the number of rows
left open, so that all contributions are read in a single pass.

Decides nothing about the merge. It must never compile in a merge's way: `warm` does that, in a
background thread if asked, and what is not ready runs eager. Invariant: each backend gives the
same bits for the same input, whatever the number of threads, for a row is summed by itself.
Between backends sums of squares may differ in the last bits, so results name the backend.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from atoll.merge.codecs import Codec, decode_blocks, decode_scaled, encoded_bytes, split
from atoll.merge.rows import ROW_NUMEL, row_parts

BackendName = Literal["eager", "compiled"]
Parts = tuple[Tensor, ...]
Result = TypeVar("Result")

GROUP_SIZES = (2, 4, 8, 16, 32)
"""Contributions per compiled kernel; a smaller number is filled up with zero coefficients."""

EAGER_CHUNK_ROWS = 64
"""Intermediate results of 1 MiB stay in the cache."""

WARM_ROWS = 4


class Backend(Protocol):
    """Inner loops over whole rows of a fragment."""

    @property
    def name(self) -> BackendName: ...

    def is_ready(self, codecs: Sequence[Codec]) -> bool:
        """Whether contributions in these codecs can be merged now, without compiling."""
        ...

    def has_sums(self, codec: Codec) -> bool:
        """Whether `row_sums` can be had for this codec now, without compiling."""
        ...

    def accumulate(
        self, codecs: Sequence[Codec], parts: Sequence[Parts], coefficients: Tensor, out: Tensor
    ) -> None:
        """out <- sum of coefficient x decoded contribution, in order; out is [rows, ROW_NUMEL]."""
        ...

    def row_sums(self, codec: Codec, parts: Parts) -> Tensor:
        """Float64 sum of squares of the decoded values of each row."""
        ...

    def scale_to_bf16(self, rows: Tensor, factor: Tensor, out: Tensor) -> None:
        """out <- bf16(rows x factor)."""
        ...


class EagerBackend:
    """Plain torch: always there, any mix of codecs, at half the speed or less."""

    name: BackendName = "eager"

    def is_ready(self, codecs: Sequence[Codec]) -> bool:
        return True

    def has_sums(self, codec: Codec) -> bool:
        return True

    @torch.no_grad()
    def accumulate(
        self, codecs: Sequence[Codec], parts: Sequence[Parts], coefficients: Tensor, out: Tensor
    ) -> None:
        for rows in _chunks(out.shape[0]):
            target = out[rows]
            for index, (codec, part) in enumerate(zip(codecs, parts, strict=True)):
                chunk = tuple(each[rows] for each in part)
                scaled = decode_scaled(codec, chunk, coefficients[index]).view(target.shape)
                target.copy_(scaled) if index == 0 else target.add_(scaled)

    @torch.no_grad()
    def row_sums(self, codec: Codec, parts: Parts) -> Tensor:
        chunks = _chunks(parts[0].shape[0])
        return torch.cat([_row_sums(codec, tuple(part[r] for part in parts)) for r in chunks])

    @torch.no_grad()
    def scale_to_bf16(self, rows: Tensor, factor: Tensor, out: Tensor) -> None:
        for chunk in _chunks(rows.shape[0]):
            _scale_to_bf16(rows[chunk], factor, out[chunk])


def _chunks(num_rows: int) -> list[slice]:
    return [slice(row, row + EAGER_CHUNK_ROWS) for row in range(0, num_rows, EAGER_CHUNK_ROWS)]


EAGER = EagerBackend()


def _accumulate(codec: Codec, parts: Sequence[Parts], coefficients: Tensor, out: Tensor) -> None:
    total = decode_scaled(codec, parts[0], coefficients[0])
    for index in range(1, len(parts)):
        total = total + decode_scaled(codec, parts[index], coefficients[index])
    out.copy_(total.view(out.shape))


def _row_sums(codec: Codec, parts: Parts) -> Tensor:
    values = decode_blocks(codec, parts).to(torch.float64)
    return values.square_().view(values.shape[0], -1).sum(dim=-1)


def _scale_to_bf16(rows: Tensor, factor: Tensor, out: Tensor) -> None:
    out.copy_(rows * factor)


def has_compiler() -> bool:
    """Whether `torch.compile` can build CPU kernels here."""
    return any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++"))


class CompiledBackend:
    """`torch.compile` over whole rows; only what `warm` has built is ever used."""

    name: BackendName = "compiled"

    def __init__(self) -> None:
        self._accumulate: dict[tuple[Codec, int], Callable[..., None]] = {}
        self._row_sums: dict[Codec, Callable[..., Tensor]] = {}
        self._scale: Callable[..., None] = _scale_to_bf16

    def is_ready(self, codecs: Sequence[Codec]) -> bool:
        if not codecs or any(codec != codecs[0] for codec in codecs):
            return False
        return (codecs[0], group_size(len(codecs))) in self._accumulate

    def has_sums(self, codec: Codec) -> bool:
        return codec in self._row_sums

    @torch.no_grad()
    def accumulate(
        self, codecs: Sequence[Codec], parts: Sequence[Parts], coefficients: Tensor, out: Tensor
    ) -> None:
        group = group_size(len(codecs))
        missing = group - len(codecs)
        # views, since torch.compile takes the same tensor given twice for another kind of call
        filler = [tuple(part.view_as(part) for part in parts[-1]) for _ in range(missing)]
        padded = torch.nn.functional.pad(coefficients, (0, missing))
        self._accumulate[codecs[0], group](codecs[0], [*parts, *filler], padded, out)

    @torch.no_grad()
    def row_sums(self, codec: Codec, parts: Parts) -> Tensor:
        return self._row_sums[codec](codec, parts)

    @torch.no_grad()
    def scale_to_bf16(self, rows: Tensor, factor: Tensor, out: Tensor) -> None:
        self._scale(rows, factor, out)

    def warm(self, codec: Codec, num_contributions: int) -> None:
        """Compile what merging this many contributions in this codec needs. Takes seconds.

        Raises RuntimeError where no compiler is found.
        """
        if not has_compiler():
            raise RuntimeError(
                "no C++ compiler found: install g++, or merge with the eager backend"
            )
        group = group_size(num_contributions)
        if group == 0 or (codec, group) in self._accumulate:
            return
        self._warm_shared(codec)
        kernel = _compiled(_accumulate, f"accumulate_{codec}_{group}")
        parts = [_example(codec) for _ in range(group)]
        with torch.no_grad():
            kernel(codec, parts, torch.ones(group), _open_rows(torch.empty(WARM_ROWS, ROW_NUMEL)))
        self._accumulate[codec, group] = kernel

    def warm_in_background(self, codec: Codec, num_contributions: int) -> threading.Thread:
        """As `warm`, beside the merges, which run eager until it is done."""
        thread = threading.Thread(
            target=self.warm, args=(codec, num_contributions), name="compile-merge", daemon=True
        )
        thread.start()
        return thread

    def _warm_shared(self, codec: Codec) -> None:
        with torch.no_grad():
            if codec not in self._row_sums:
                sums = _compiled(_row_sums, f"row_sums_{codec}")
                sums(codec, _example(codec))
                self._row_sums[codec] = sums
            if "fp32" not in self._row_sums:
                self._warm_shared("fp32")  # sums of squares of the accumulated rows
            if self._scale is _scale_to_bf16:
                scale = _compiled(_scale_to_bf16, "scale_to_bf16")
                (rows,) = _example("fp32")
                scale(rows, torch.tensor(1.0), _open_rows(torch.empty_like(rows).bfloat16()))
                self._scale = scale


def group_size(num_contributions: int) -> int:
    """The smallest kernel that takes this many; 0 where there is none."""
    return next((size for size in GROUP_SIZES if size >= num_contributions), 0)


def _compiled(function: Callable[..., Result], name: str) -> Callable[..., Result]:
    """Compile under a code object of its own, so that the variants do not share one cache (dynamo
    stops compiling after a few variants of one code object).
    """
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=name)
    own = FunctionType(code, function.__globals__, name)
    return torch.compile(own, fullgraph=True)


def _example(codec: Codec) -> Parts:
    numel = WARM_ROWS * ROW_NUMEL
    payload = torch.zeros(encoded_bytes(codec, numel), dtype=torch.uint8)
    parts = row_parts(codec, split(codec, payload, numel), 0, WARM_ROWS)
    return tuple(_open_rows(part) for part in parts)


def _open_rows(tensor: Tensor) -> Tensor:
    from torch._dynamo import mark_dynamic  # as slow to import as torch itself; only to compile

    mark_dynamic(tensor, 0)
    return tensor
