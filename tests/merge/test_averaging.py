"""The merge rule against its formulas in float64, on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atoll.fragments import Fragment
from atoll.merge.averaging import (
    Average,
    AveragingSettings,
    Share,
    average,
    sums_of_squares,
)
from atoll.merge.backends import EAGER, Backend, CompiledBackend
from atoll.merge.codecs import Codec, decode, encode, split

MakeFragment = Callable[..., Fragment]
BF16_TOLERANCE = 2**-8
"""Relative, of the largest value of a piece: half a step of bf16 and fp32's rounding below it."""


def run(
    fragment: Fragment,
    vectors: list[Tensor],
    weights: list[float] | None = None,
    rule: AveragingSettings | None = None,
    *,
    codec: Codec = "fp32",
    backend: Backend = EAGER,
    scales: list[float] | None = None,
) -> Average:
    shares = []
    for index, vector in enumerate(vectors):
        payload = encode(codec, vector)
        sums = sums_of_squares(fragment, codec, payload, backend)
        weight = weights[index] if weights else 1.0
        scale = scales[index] if scales else 1.0
        shares.append(Share(codec, split(codec, payload, vector.numel()), weight, scale, sums))
    return average(fragment, shares, rule or AveragingSettings("rda"), backend)


def phi(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return vector / norm if norm > 0 else vector


def reference(vectors: list[Tensor], weights: list[float], min_cosine: float = 0.05) -> Tensor:
    """RDA as the method states it, in float64."""
    total = sum(weights)
    exact = [vector.double() for vector in vectors]
    direction = sum((w * phi(v) for w, v in zip(weights, exact, strict=True)), 0 * exact[0]) / total
    if direction.norm() < min_cosine:
        return mean_reference(vectors, weights)
    length = sum(float(v.norm()) * w for w, v in zip(weights, exact, strict=True)) / total
    return phi(direction) * length


def mean_reference(vectors: list[Tensor], weights: list[float]) -> Tensor:
    pairs = zip(weights, vectors, strict=True)
    return sum((w * v.double() for w, v in pairs), 0 * vectors[0].double()) / sum(weights)


def assert_close(found: Tensor, expected: Tensor) -> None:
    error = (found.double() - expected).abs().max()
    assert float(error) <= BF16_TOLERANCE * float(expected.abs().max()) + 1e-38


def randoms(num: int, numel: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(numel, generator=generator) * 10.0**-index for index in range(num)]


def test_orthogonal_vectors_keep_their_norm(fragment_of: MakeFragment) -> None:
    one, other = torch.zeros(64), torch.zeros(64)
    one[:32], other[32:] = 1.0, 1.0
    fragment = fragment_of(("matrix", 64))
    rda = run(fragment, [one, other]).delta.double()
    mean = run(fragment, [one, other], rule=AveragingSettings("mean")).delta.double()
    assert float(rda.norm()) == pytest.approx(sqrt(32), rel=BF16_TOLERANCE)
    assert float(mean.norm()) == pytest.approx(sqrt(32) / sqrt(2), rel=BF16_TOLERANCE)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_equal_vectors_stay(fragment_of: MakeFragment, num: int) -> None:
    (vector,) = randoms(1, 500)
    found = run(fragment_of(("matrix", 500)), [vector] * num)
    assert_close(found.delta, vector.double())
    assert found.fallback_pieces == ()


def test_opposite_vectors_fall_back_to_the_mean(fragment_of: MakeFragment) -> None:
    (vector,) = randoms(1, 500)
    found = run(fragment_of(("matrix", 500)), [vector, -0.5 * vector])
    assert found.fallback_pieces == ("t0",)
    assert_close(found.delta, 0.25 * vector.double())


def test_the_stated_cosine_decides(fragment_of: MakeFragment) -> None:
    vectors = [torch.eye(100)[index] for index in range(100)]  # averaged direction: length 0.1
    fragment = fragment_of(("matrix", 100))
    above = run(fragment, vectors, rule=AveragingSettings("rda", min_cosine=0.099))
    below = run(fragment, vectors, rule=AveragingSettings("rda", min_cosine=0.101))
    assert above.fallback_pieces == () and below.fallback_pieces == ("t0",)
    assert float(above.delta[0]) == pytest.approx(0.1, rel=BF16_TOLERANCE)
    assert float(below.delta[0]) == pytest.approx(0.01, rel=BF16_TOLERANCE)


def test_zero_vectors_count_with_their_weight_and_have_no_direction(
    fragment_of: MakeFragment,
) -> None:
    (vector,) = randoms(1, 500)
    fragment = fragment_of(("matrix", 500))
    assert_close(run(fragment, [vector, vector * 0]).delta, vector.double() / 2)
    nothing = run(fragment, [vector * 0, vector * 0])
    assert not nothing.delta.any() and nothing.fallback_pieces == ()


@pytest.mark.parametrize("kind", ["vector", "embedding"])
def test_vectors_and_embeddings_take_the_mean(fragment_of: MakeFragment, kind: str) -> None:
    vectors, weights = randoms(3, 300), [1.0, 2.0, 5.0]
    found = run(fragment_of((kind, 300)), vectors, weights)
    assert_close(found.delta, mean_reference(vectors, weights))


def test_buffers_take_the_mean_whatever_their_shape(fragment_of: MakeFragment) -> None:
    vectors, weights = randoms(2, 300), [1.0, 3.0]
    found = run(fragment_of(("matrix", 300), buffers=(0,)), vectors, weights)
    assert_close(found.delta, mean_reference(vectors, weights))


def test_scale_factor_shortens_a_contribution(fragment_of: MakeFragment) -> None:
    vectors, scales, weights = randoms(3, 300), [1.0, 0.5, 0.25], [1.0, 2.0, 3.0]
    scaled = [vector * scale for vector, scale in zip(vectors, scales, strict=True)]
    for kind, expected in (("matrix", reference), ("vector", mean_reference)):
        found = run(fragment_of((kind, 300)), vectors, weights, scales=scales)
        assert_close(found.delta, expected(scaled, weights))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 13_000), min_size=1, max_size=4),
    weights=st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_pieces_are_averaged_apart(
    fragment_of: MakeFragment, sizes: list[int], weights: list[float], seed: int
) -> None:
    kinds = ["matrix", "vector", "matrix", "embedding"]
    fragment = fragment_of(*zip(kinds, sizes, strict=False))
    vectors = randoms(len(weights), fragment.numel, seed)
    found = run(fragment, vectors, weights)
    for piece in fragment.pieces:
        span = slice(piece.offset, piece.stop)
        rule = reference if piece.kind == "matrix" else mean_reference
        expected = rule([vector[span] for vector in vectors], weights)
        assert_close(found.delta[span], expected)


@pytest.fixture
def large(fragment_of: MakeFragment) -> Fragment:
    """Bodies of whole rows, edges on both sides, pieces without a whole row."""
    return fragment_of(
        ("matrix", 100_001), ("vector", 300), ("matrix", 70_000), ("embedding", 9_999)
    )


@pytest.fixture
def one_thread_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check_large(large: Fragment, codec: Codec, num: int, backend: Backend) -> Tensor:
    vectors, weights = randoms(num, large.numel, seed=7), [1.0, 3.0, 2.0, 5.0][:num]
    found = run(large, vectors, weights, codec=codec, backend=backend)
    again = run(large, vectors, weights, codec=codec, backend=backend)
    assert torch.equal(found.delta, again.delta)
    decoded = [decode(codec, encode(codec, vector), large.numel) for vector in vectors]
    for piece in large.pieces:
        span = slice(piece.offset, piece.stop)
        rule = reference if piece.kind == "matrix" else mean_reference
        assert_close(found.delta[span], rule([vector[span] for vector in decoded], weights))
    return found.delta


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4"])
def test_eager_agrees_with_the_reference(large: Fragment, codec: Codec) -> None:
    check_large(large, codec, 4, EAGER)


@pytest.mark.parametrize(("codec", "num"), [("bf16", 2), ("int8", 3), ("int8", 4)])
def test_compiled_agrees_with_the_reference_without_compiling_again(
    large: Fragment, compiled: CompiledBackend, codec: Codec, num: int
) -> None:
    assert compiled.is_ready([codec] * num)
    torch.compiler.set_stance("fail_on_recompile")
    try:
        delta = check_large(large, codec, num, compiled)
    finally:
        torch.compiler.set_stance("default")
    eager = check_large(large, codec, num, EAGER)
    assert_close(delta, eager.double())


def test_threads_do_not_change_bits(large: Fragment, one_thread_after: None) -> None:
    vectors = randoms(3, large.numel)
    deltas, sums = [], []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        deltas.append(run(large, vectors).delta)
        sums.append(sums_of_squares(large, "fp32", encode("fp32", vectors[0]), EAGER))
    assert torch.equal(deltas[0], deltas[1]) and torch.equal(deltas[0], deltas[2])
    assert sums[0] == sums[1] == sums[2]


def test_sums_of_squares_are_float64_of_decoded_values(
    large: Fragment, compiled: CompiledBackend
) -> None:
    (vector,) = randoms(1, large.numel)
    payload = encode("int8", vector)
    decoded = decode("int8", payload, large.numel).double()
    exact = [float(decoded[p.offset : p.stop].square().sum()) for p in large.pieces]
    for backend in (EAGER, compiled):
        found = sums_of_squares(large, "int8", payload, backend)
        assert found.values == pytest.approx(exact, rel=1e-13)
        assert found.backend == backend.name


def test_what_is_not_warmed_is_not_ready(compiled: CompiledBackend) -> None:
    assert not compiled.is_ready(["fp32", "fp32"])
    assert not compiled.is_ready(["bf16"] * 3)
    assert not compiled.is_ready(["bf16", "int8"])
    assert not compiled.is_ready(["int8"] * 33)
    assert not compiled.is_ready([])


@pytest.mark.parametrize("settings_of", [{"rule": "median"}, {"min_cosine": 1.0}])
def test_settings_are_checked(settings_of: dict[str, str | float]) -> None:
    with pytest.raises(ValueError, match="use"):
        AveragingSettings(**settings_of)  # type: ignore[arg-type]
