"""Codecs: flat fp32 values <-> the bytes that travel.

    fp32   4 bytes per value
    bf16   2 bytes per value, round to nearest even
    int8   fp32 scale per block of 256, then codes -127..127
    int4   fp32 scale per block of 128, then codes -7..7 in two's complement, two per byte: byte
           j of a block holds value j in its low half and value j + 64 in its high half

Blocks run over the flat fragment; a last, partial block is filled with zeros. All scales come
first, then all codes, little-endian. Scales are fp32 because displacements of 1e-5 would leave
fp16's normal range once divided by 127; that costs 0.125 bit per value (int8) and 0.25 (int4).

Pure functions, any device. Must never hide a non-finite value: `encode` refuses it, and what a
sender made up is found by `is_finite`. Invariants: `encoded_bytes` is exact and known from the
number of values alone; decoding is one float32 multiply of exact factors, whose result is zero or
normal, so every device gets the same bits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, assert_never, get_args

import torch
from torch import Tensor

Codec = Literal["fp32", "bf16", "int8", "int4"]
CODECS: tuple[Codec, ...] = get_args(Codec)
Payload = Tensor | bytes | bytearray | memoryview

BLOCK_NUMEL: dict[Codec, int] = {"fp32": 1, "bf16": 1, "int8": 256, "int4": 128}
LARGEST_CODE: dict[Codec, int] = {"int8": 127, "int4": 7}
CODE_BYTES: dict[Codec, int] = {"int8": 256, "int4": 64}
"""Bytes of the codes of one block."""

SCALE_BYTES = 4
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Below this a block counts as zero: a device that flushes subnormals must get the same bits."""

CHUNK_NUMEL = 1 << 18
"""Encode and decode work in pieces that stay in the cache."""


def encoded_bytes(codec: Codec, numel: int) -> int:
    """The exact size of a payload of `numel` values."""
    match codec:
        case "fp32":
            return 4 * numel
        case "bf16":
            return 2 * numel
        case "int8" | "int4":
            return num_blocks(codec, numel) * (SCALE_BYTES + CODE_BYTES[codec])
        case _:
            raise ValueError(f"unknown codec {codec!r}: use one of {', '.join(CODECS)}")


def num_blocks(codec: Codec, numel: int) -> int:
    """Blocks of so many values, the last of which may be partial."""
    return -(-numel // BLOCK_NUMEL[codec])


@torch.no_grad()
def encode(codec: Codec, flat: Tensor) -> Tensor:
    """The payload of flat fp32 values, as uint8 on the same device, sharing no memory with them.

    Raises ValueError where a value is not finite, or would not be once encoded.
    """
    if flat.dim() != 1 or flat.dtype != torch.float32:
        raise ValueError(f"encode takes flat fp32 values, not {flat.dtype} of {flat.dim()} dims")
    payload = torch.empty(encoded_bytes(codec, flat.numel()), dtype=torch.uint8, device=flat.device)
    parts = split(codec, payload, flat.numel())
    match codec:
        case "fp32" | "bf16":
            parts[0].copy_(flat)
        case "int8" | "int4":
            _encode_blocks(codec, flat, *parts)
        case _ as never:
            assert_never(never)
    if not is_finite(codec, payload, flat.numel()):
        raise ValueError(f"a value is not finite, or too large for {codec}: nothing was encoded")
    return payload


@torch.no_grad()
def decode(codec: Codec, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
    """The flat fp32 values of a payload, into `out` where given."""
    parts = split(codec, payload, numel)
    if out is None:
        out = torch.empty(numel, dtype=torch.float32, device=parts[0].device)
    assert out.shape == (numel,) and out.dtype == torch.float32, "out: flat fp32 of that size"
    for start, stop in chunk_bounds(numel):
        out[start:stop].copy_(decode_range(codec, parts, start, stop))
    return out


def decode_range(codec: Codec, parts: tuple[Tensor, ...], start: int, stop: int) -> Tensor:
    """Values `start` to `stop` of a payload that was split: decodes only the blocks they lie in."""
    block = BLOCK_NUMEL[codec]
    first = start // block
    blocks = tuple(part[first : -(-stop // block)] for part in parts)
    return decode_blocks(codec, blocks).reshape(-1)[start - first * block : stop - first * block]


def decode_blocks(codec: Codec, parts: tuple[Tensor, ...]) -> Tensor:
    """Whole blocks to fp32 values; leading dimensions stay, values come as [..., block]."""
    match codec:
        case "fp32" | "bf16":
            return parts[0].to(torch.float32)
        case "int8":
            scales, codes = parts
            return codes.to(torch.float32) * scales.unsqueeze(-1)
        case "int4":
            scales, packed = parts
            # either half to the top of an int32, and back down with its sign
            shifts = 28 - 4 * torch.arange(2, dtype=torch.int32, device=packed.device)
            codes = (packed.to(torch.int32).unsqueeze(-2) << shifts.unsqueeze(-1)) >> 28
            return (codes.to(torch.float32) * scales.unsqueeze(-1).unsqueeze(-1)).flatten(-2)
        case _ as never:
            assert_never(never)


def decode_scaled(codec: Codec, parts: tuple[Tensor, ...], factor: Tensor) -> Tensor:
    """`decode_blocks` times a factor, which is taken into the scales where there are some."""
    if codec in ("fp32", "bf16"):
        return decode_blocks(codec, parts) * factor
    return decode_blocks(codec, (parts[0] * factor, parts[1]))


@torch.no_grad()
def is_finite(codec: Codec, payload: Payload, numel: int) -> bool:
    """Whether every value decodes to a finite number."""
    values = split(codec, payload, numel)[0]
    if numel == 0:
        return True
    low, high = torch.aminmax(values)  # both are NaN where any value is
    reach = LARGEST_CODE.get(codec, 1)
    # -128 and -8 are codes that encode never writes, but a sender may
    reach += codec in ("int8", "int4")
    return bool(torch.isfinite(low.float() * reach) & torch.isfinite(high.float() * reach))


def split(codec: Codec, payload: Payload, numel: int) -> tuple[Tensor, ...]:
    """Typed views into a payload: (values,) or (scales, codes by block).

    Raises ValueError on a wrong length. Copies only what is read-only or not aligned.
    """
    expected = encoded_bytes(codec, numel)
    raw = _as_uint8(payload)
    if raw.numel() != expected:
        raise ValueError(
            f"{numel} values in {codec} are {expected} bytes, not {raw.numel()}: "
            "sender and receiver disagree on layout or codec"
        )
    match codec:
        case "fp32":
            return (raw.view(torch.float32),)
        case "bf16":
            return (raw.view(torch.bfloat16),)
        case "int8" | "int4":
            blocks = num_blocks(codec, numel)
            scales = raw[: blocks * SCALE_BYTES].view(torch.float32)
            codes = raw[blocks * SCALE_BYTES :].view(blocks, CODE_BYTES[codec])
            return (scales, codes.view(torch.int8) if codec == "int8" else codes)
        case _ as never:
            assert_never(never)


def _as_uint8(payload: Payload) -> Tensor:
    if isinstance(payload, Tensor):
        raw = payload.reshape(-1).view(torch.uint8)
    else:
        view = memoryview(payload).cast("B")
        if len(view) == 0:
            return torch.empty(0, dtype=torch.uint8)
        raw = torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)
    is_aligned = raw.data_ptr() % 4 == 0 and raw.storage_offset() % 4 == 0
    return raw if is_aligned else raw.clone()


def chunk_bounds(numel: int) -> list[tuple[int, int]]:
    """Start and stop of chunks of CHUNK_NUMEL, the last one shorter."""
    return list(pairwise([*range(0, numel, CHUNK_NUMEL), numel]))


def _encode_blocks(codec: Codec, flat: Tensor, scales: Tensor, codes: Tensor) -> None:
    block = BLOCK_NUMEL[codec]
    for start, stop in chunk_bounds(flat.numel()):
        rows = slice(start // block, -(-stop // block))
        values = _whole_blocks(flat[start:stop], block)
        scale = values.abs().amax(dim=-1) / LARGEST_CODE[codec]
        scale[scale < SMALLEST_SCALE] = 0.0
        divisor = torch.where(scale == 0, torch.inf, scale)
        # |value / scale| exceeds the largest code by rounding at most: no clamp is needed
        quantised = values.div(divisor.unsqueeze(-1)).round_()
        scales[rows] = scale
        codes[rows] = _pack(codec, quantised)


def _whole_blocks(values: Tensor, block: int) -> Tensor:
    missing = -values.numel() % block
    return torch.nn.functional.pad(values, (0, missing)).view(-1, block)


def _pack(codec: Codec, quantised: Tensor) -> Tensor:
    if codec == "int8":
        return quantised.to(torch.int8)
    codes = quantised.to(torch.int8).view(torch.uint8)
    half = BLOCK_NUMEL["int4"] // 2
    return (codes[:, :half] & 15) | (codes[:, half:] << 4)
