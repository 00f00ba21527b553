"""The published chain: every holder has the same bytes, at every codec, by every way."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from atoll.merge.chain import (
    KEPT_INCREMENTS,
    CatchUp,
    Chain,
    DigestMismatchError,
    FullCopy,
    Increment,
    Published,
    digest_of,
    first_version,
    follow,
    publish,
)
from atoll.merge.codecs import CODECS, Codec, decode, encode

NUMEL = 5_001


def thetas(num: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(NUMEL, generator=generator)]
    while len(values) < num:
        values.append(values[-1] + 1e-3 * torch.randn(NUMEL, generator=generator))
    return values


def chain_of(codec: Codec, num_versions: int) -> tuple[Chain, list[Published]]:
    path = thetas(num_versions + 1)
    chain = Chain(first_version(path[0]))
    history = [chain.published]
    for theta in path[1:]:
        chain.append(*publish(chain.published, theta, codec))
        history.append(chain.published)
    return chain, history


def assert_same_bytes(mine: Published, theirs: Published) -> None:
    assert mine.version == theirs.version and mine.digest == theirs.digest
    assert torch.equal(mine.values.view(torch.int32), theirs.values.view(torch.int32))


@pytest.mark.parametrize("codec", CODECS)
def test_every_holder_has_the_same_bytes(codec: Codec) -> None:
    chain, history = chain_of(codec, 12)
    every_version = first_version(thetas(1)[0])
    for version, increment in enumerate(chain.increments, start=12 - KEPT_INCREMENTS + 1):
        if version == 12 - KEPT_INCREMENTS + 1:
            every_version = history[version - 1]
        every_version = follow(every_version, (increment,))
        assert_same_bytes(every_version, history[version])
    for since in [*range(13), None]:
        base = history[since or 0]
        assert_same_bytes(follow(base, chain.catch_up(since)), chain.published)


@pytest.mark.parametrize("codec", CODECS)
def test_coding_errors_do_not_add_up(codec: Codec) -> None:
    chain, _ = chain_of(codec, 12)
    error = (chain.published.values - thetas(13)[-1]).abs().max()
    assert float(error) < 2e-3


def test_the_step_is_a_multiply_and_a_separately_rounded_add() -> None:
    """Against float32 arithmetic done one value at a time, rounding after each operation."""
    base, theta = thetas(2)
    published, increment = publish(first_version(base), theta, "int8")
    payload = increment.payload
    assert isinstance(payload, Tensor)
    num_blocks = -(-NUMEL // 256)
    scales = payload[: 4 * num_blocks].view(torch.float32).double()
    codes = payload[4 * num_blocks :].view(torch.int8).double()
    for index in range(0, NUMEL, 7):
        product = (codes[index] * scales[index // 256]).float()
        total = (product.double() + base[index].double()).float()
        assert published.values[index] == total


def test_digest_is_sha256_of_little_endian_fp32() -> None:
    values = [1.5, -2.25, 0.0]
    expected = hashlib.sha256(struct.pack("<3f", *values)).hexdigest()
    assert digest_of(torch.tensor(values)) == expected


def test_catch_up_is_whatever_is_fewer_bytes() -> None:
    chain, _ = chain_of("bf16", 12)
    assert chain.catch_up(12) == ()
    assert [each.version for each in _increments(chain.catch_up(11))] == [12]
    assert isinstance(chain.catch_up(10), FullCopy)  # two of two bytes are no fewer than four
    chain, _ = chain_of("int4", 12)
    assert len(_increments(chain.catch_up(12 - 7))) == 7
    assert isinstance(chain.catch_up(12 - KEPT_INCREMENTS - 1), FullCopy)
    assert isinstance(chain.catch_up(None), FullCopy)


def _increments(news: CatchUp) -> tuple[Increment, ...]:
    assert isinstance(news, tuple)
    return news


@pytest.mark.parametrize("version", [-1, 13])
def test_versions_that_never_were_are_refused(version: int) -> None:
    chain, _ = chain_of("int8", 12)
    with pytest.raises(ValueError, match="never published"):
        chain.catch_up(version)


def test_a_wrong_base_or_a_flipped_bit_is_a_digest_mismatch() -> None:
    chain, history = chain_of("int8", 3)
    news = chain.increments[1:]
    wrong = history[1].values.clone()
    wrong[17] += 1e-3
    with pytest.raises(DigestMismatchError, match="fetch a full copy"):
        follow(replace(history[1], values=wrong), news)
    payload = news[0].payload
    assert isinstance(payload, Tensor)
    flipped = payload.clone()
    flipped[-200] ^= 1 << 6
    with pytest.raises(DigestMismatchError):
        follow(history[1], (replace(news[0], payload=flipped), news[1]))
    copy = chain.catch_up(None)
    assert isinstance(copy, FullCopy)
    with pytest.raises(DigestMismatchError):
        follow(history[0], replace(copy, payload=encode("fp32", history[2].values)))


def test_increments_out_of_order_or_of_wrong_size_are_refused() -> None:
    chain, history = chain_of("int8", 3)
    with pytest.raises(ValueError, match="cannot follow"):
        follow(history[0], chain.increments[1:])
    payload = chain.increments[0].payload
    assert isinstance(payload, Tensor)
    with pytest.raises(ValueError, match="disagree"):
        follow(history[0], (replace(chain.increments[0], payload=payload[:-1]),))


def test_following_leaves_the_base_as_it_was() -> None:
    chain, history = chain_of("fp32", 2)
    before = history[0].values.clone()
    follow(history[0], chain.increments)
    assert torch.equal(history[0].values, before)
    assert digest_of(history[1].values) == history[1].digest


def test_a_step_that_is_not_finite_is_refused() -> None:
    base = first_version(torch.zeros(4))
    with pytest.raises(ValueError, match="not finite"):
        publish(base, torch.tensor([1.0, float("inf"), 0.0, 0.0]), "int8")
    assert torch.equal(decode("fp32", encode("fp32", base.values), 4), base.values)
