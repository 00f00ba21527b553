"""Codecs: exact sizes, error bounds, refusals, nothing non-finite hidden."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atoll.merge.codecs import (
    BLOCK_NUMEL,
    CODECS,
    LARGEST_CODE,
    Codec,
    decode,
    decode_range,
    encode,
    encoded_bytes,
    is_finite,
    split,
)

TINY = torch.finfo(torch.float32).tiny
LARGE = 2.0**126
any_value = st.floats(width=32, min_value=-LARGE, max_value=LARGE)
sizes = st.integers(0, 1300)


def flat_values(numel: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(torch.randn(numel, generator=generator) * 4)
    return torch.randn(numel, generator=generator) * spread * 1e-4


def block_maxima(codec: Codec, flat: Tensor) -> Tensor:
    block = BLOCK_NUMEL[codec]
    padded = torch.nn.functional.pad(flat.double(), (0, -flat.numel() % block)).view(-1, block)
    return padded.abs().amax(-1).repeat_interleave(block)[: flat.numel()]


def error_bound(codec: Codec, flat: Tensor) -> Tensor:
    """Half a step of the codec, plus the float32 rounding of scale and product."""
    if codec == "fp32":
        return torch.zeros_like(flat, dtype=torch.float64)
    if codec == "bf16":
        return flat.double().abs() * 2**-8 + 1e-40
    code = LARGEST_CODE[codec]
    return block_maxima(codec, flat) * (0.5 / code + 1e-6) + code * TINY


def assert_within_bound(codec: Codec, flat: Tensor) -> None:
    payload = encode(codec, flat)
    assert payload.dtype == torch.uint8
    assert payload.numel() == encoded_bytes(codec, flat.numel())
    decoded = decode(codec, payload, flat.numel())
    error = (decoded.double() - flat.double()).abs()
    assert bool((error <= error_bound(codec, flat)).all())
    assert is_finite(codec, payload, flat.numel())


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=60, deadline=None)
@given(values=st.lists(any_value, max_size=300))
def test_round_trip_of_any_values(codec: Codec, values: list[float]) -> None:
    assert_within_bound(codec, torch.tensor(values, dtype=torch.float32))


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=40, deadline=None)
@given(numel=sizes, seed=st.integers(0, 99))
def test_round_trip_of_any_size(codec: Codec, numel: int, seed: int) -> None:
    assert_within_bound(codec, flat_values(numel, seed))


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip_across_chunks(codec: Codec) -> None:
    assert_within_bound(codec, flat_values((1 << 19) + 77, seed=3))


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=40, deadline=None)
@given(numel=st.integers(1, 1300), data=st.data())
def test_a_range_decodes_as_the_whole_does(codec: Codec, numel: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, numel))
    stop = data.draw(st.integers(start, numel))
    payload = encode(codec, flat_values(numel, seed=5))
    part = decode_range(codec, split(codec, payload, numel), start, stop)
    assert torch.equal(part, decode(codec, payload, numel)[start:stop])


@pytest.mark.parametrize("codec", CODECS)
def test_coding_what_was_coded_changes_nothing(codec: Codec) -> None:
    once = decode(codec, encode(codec, flat_values(1000, seed=1)), 1000)
    again = decode(codec, encode(codec, once), 1000)
    tolerance = 0.0 if codec in ("fp32", "bf16") else 3e-7
    assert torch.allclose(once, again, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("codec", "numel", "num_bytes"),
    [
        ("fp32", 10, 40),
        ("bf16", 10, 20),
        ("int8", 256, 260),
        ("int8", 257, 520),
        ("int4", 128, 68),
        ("int4", 1, 68),
        ("int4", 0, 0),
    ],
)
def test_sizes(codec: Codec, numel: int, num_bytes: int) -> None:
    assert encoded_bytes(codec, numel) == num_bytes


def test_int4_bytes_are_as_documented() -> None:
    flat = torch.zeros(128)
    flat[0], flat[1], flat[64] = 7.0, -7.0, 2.0
    payload = encode("int4", flat)
    assert payload[:4].view(torch.float32).item() == 1.0
    assert payload[4].item() == 7 | 2 << 4
    assert payload[5].item() == (-7 & 15)


def test_int8_bytes_are_as_documented() -> None:
    payload = encode("int8", torch.tensor([127.0, -127.0, 1.4]))
    assert payload[:4].view(torch.float32).item() == 1.0
    assert payload[4:8].view(torch.int8).tolist() == [127, -127, 1, 0]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_encode_refuses_what_is_not_finite(codec: Codec, bad: float) -> None:
    flat = flat_values(700, seed=2)
    flat[513] = bad
    with pytest.raises(ValueError, match="not finite"):
        encode(codec, flat)


def test_bf16_refuses_what_would_become_infinite() -> None:
    flat = torch.tensor([torch.finfo(torch.float32).max])
    with pytest.raises(ValueError, match="too large for bf16"):
        encode("bf16", flat)
    assert torch.equal(decode("fp32", encode("fp32", flat), 1), flat)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_payload_made_up_by_a_sender_is_found_out(codec: Codec, bad: float) -> None:
    payload = encode(codec, flat_values(700, seed=2))
    first_number = split(codec, payload, 700)[0]
    first_number[1] = bad
    assert not is_finite(codec, payload, 700)


def test_a_finite_scale_that_overflows_is_found_out() -> None:
    payload = encode("int8", torch.ones(256))
    payload[:4].view(torch.float32)[0] = 3e38
    payload[4:].view(torch.int8)[0] = -128
    assert not is_finite("int8", payload, 256)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("off_by", [-1, 1])
def test_wrong_length_is_refused(codec: Codec, off_by: int) -> None:
    payload = bytearray(encoded_bytes(codec, 100) + off_by)
    with pytest.raises(ValueError, match="disagree on layout or codec"):
        decode(codec, payload, 100)


@pytest.mark.parametrize("codec", CODECS)
def test_any_buffer_will_do_even_unaligned(codec: Codec) -> None:
    flat = flat_values(300, seed=4)
    payload = bytes(encode(codec, flat).tolist())
    expected = decode(codec, payload, 300)
    shifted = memoryview(bytearray(b"x" + payload))[1:]
    assert torch.equal(decode(codec, bytearray(payload), 300), expected)
    assert torch.equal(decode(codec, shifted, 300), expected)
    assert torch.equal(decode(codec, memoryview(payload), 300), expected)


@pytest.mark.parametrize("codec", CODECS)
def test_payload_shares_no_memory_with_the_values(codec: Codec) -> None:
    flat = flat_values(300, seed=4)
    payload = encode(codec, flat)
    before = payload.clone()
    flat.zero_()
    assert torch.equal(payload, before)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_decoded_values_are_zero_or_normal(codec: Codec) -> None:
    flat = flat_values(2048, seed=6) * torch.logspace(-43, 3, 2048)
    magnitudes = decode(codec, encode(codec, flat), 2048).abs()
    assert bool(((magnitudes == 0) | (magnitudes >= TINY)).all())
    assert bool((magnitudes > 0).any())
