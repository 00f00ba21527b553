"""One merge from contributions to the next version: errors, order, replay, backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from atoll.fragments import Fragment
from atoll.merge.averaging import AveragingSettings
from atoll.merge.backends import CompiledBackend
from atoll.merge.chain import Chain, first_version, follow
from atoll.merge.codecs import CODECS, Codec, encode, encoded_bytes, split
from atoll.merge.merge import (
    Contribution,
    ContributionError,
    FragmentMerger,
    FragmentState,
    MergeError,
    MergeSettings,
)
from atoll.merge.outer import OuterSettings

MakeFragment = Callable[..., Fragment]
RDA = AveragingSettings("rda")


@pytest.fixture
def fragment(fragment_of: MakeFragment) -> Fragment:
    return fragment_of(
        ("matrix", 9_001), ("vector", 20), ("embedding", 500), ("vector", 6), buffers=(3,)
    )


def contribution(name: str, numel: int, codec: Codec = "bf16", seed: int = 0) -> Contribution:
    generator = torch.Generator().manual_seed(seed)
    values = 1e-3 * torch.randn(numel, generator=generator)
    return Contribution(name, codec, encode(codec, values), weight=1.0 + seed)


def contributions(numel: int, codec: Codec = "bf16", num: int = 3) -> list[Contribution]:
    return [contribution(f"learner-{i}", numel, codec, seed=i) for i in range(num)]


def merger_of(
    fragment: Fragment, kind: str = "nesterov", downlink: Codec = "bf16"
) -> FragmentMerger:
    outer = OuterSettings(kind, ramp_merges=0)  # type: ignore[arg-type]
    return FragmentMerger(fragment, MergeSettings(RDA, outer, downlink))


def start(merger: FragmentMerger) -> FragmentState:
    return merger.initial(torch.linspace(-1, 1, merger.fragment.numel))


def tensors_in(state: FragmentState) -> list[Tensor]:
    named = [state.outer[name] for name in sorted(state.outer)]
    return [state.theta, state.published.values, *named]


def assert_same(mine: FragmentState, theirs: FragmentState) -> None:
    assert mine.published.digest == theirs.published.digest and mine.version == theirs.version
    for one, other in zip(tensors_in(mine), tensors_in(theirs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("downlink", CODECS)
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_replay_of_the_log_is_the_original_bit_by_bit(
    fragment: Fragment, kind: str, downlink: Codec
) -> None:
    merger = merger_of(fragment, kind, downlink)
    state, log, increments = start(merger), [], []
    for round_number in range(4):
        each = [
            contribution(f"l{i}", fragment.numel, "int8", 10 * round_number + i) for i in (1, 2)
        ]
        result = merger.merge(state, each)
        log.append(bytes(result.delta_bytes.tolist()))
        increments.append(result.increment)
        state = result.state
    restarted, follower = start(merger), start(merger).published
    for logged, increment in zip(log, increments, strict=True):
        restarted, again = merger.replay(restarted, logged)
        assert again.digest == increment.digest
        follower = follow(follower, (increment,))
    assert_same(restarted, state)
    assert torch.equal(follower.values, state.published.values)


def test_order_of_arrival_does_not_change_bits(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    state, arrived = start(merger), contributions(fragment.numel)
    one, other = merger.merge(state, arrived), merger.merge(state, arrived[::-1])
    assert torch.equal(one.delta, other.delta)
    assert_same(one.state, other.state)


@pytest.mark.parametrize("codec", CODECS)
def test_merges_at_every_codec_move_theta_by_the_rule(fragment: Fragment, codec: Codec) -> None:
    merger = merger_of(fragment, "sgd")
    state = start(merger)
    result = merger.merge(state, contributions(fragment.numel, codec, num=1))
    expected = state.theta + 0.7 * result.delta.float()
    assert torch.allclose(result.state.theta[:-6], expected[:-6])
    assert result.delta.abs().max() > 1e-3
    assert result.state.version == 1 and result.backend == "eager"


def test_codecs_may_be_mixed(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    mixed = [contribution(f"l{i}", fragment.numel, codec, 1) for i, codec in enumerate(CODECS)]
    same = [contribution(f"l{i}", fragment.numel, "fp32", 1) for i in range(4)]
    one, other = (merger.merge(start(merger), each).delta.float() for each in (mixed, same))
    assert float((one - other).norm() / other.norm()) < 0.06


def test_known_sums_change_nothing(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    arrived = contributions(fragment.numel)
    known = [
        replace(each, sums=merger.sums_of_squares(each.name, each.codec, each.payload))
        for each in arrived
    ]
    assert_same(
        merger.merge(start(merger), known).state, merger.merge(start(merger), arrived).state
    )


def spoil(each: Contribution, codec: Codec, numel: int) -> Contribution:
    payload = encode(codec, torch.ones(numel))
    split(codec, payload, numel)[0][-1] = float("nan")
    return replace(each, codec=codec, payload=payload)


@pytest.mark.parametrize("codec", CODECS)
def test_a_contribution_that_is_not_finite_is_named_and_nothing_changes(
    fragment: Fragment, codec: Codec
) -> None:
    merger = merger_of(fragment)
    state, arrived = start(merger), contributions(fragment.numel)
    before = [tensor.clone() for tensor in tensors_in(state)]
    arrived[1] = spoil(arrived[1], codec, fragment.numel)
    with pytest.raises(ContributionError, match="learner-1: holds a value that is not finite"):
        merger.merge(state, arrived)
    with pytest.raises(ContributionError, match="learner-1"):
        merger.sums_of_squares("learner-1", codec, arrived[1].payload)
    for tensor, copy in zip(tensors_in(state), before, strict=True):
        assert torch.equal(tensor, copy)


def test_wrong_contributions_are_named(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    good, bad = contributions(fragment.numel, num=2)
    wrong = {
        "bytes, not": replace(bad, payload=bytearray(7)),
        "unknown codec": replace(bad, codec=cast(Codec, "fp8")),
        "weight 0.0": replace(bad, weight=0.0),
        "weight nan": replace(bad, weight=float("nan")),
        "scale -1.0": replace(bad, scale=-1.0),
        "scale inf": replace(bad, scale=float("inf")),
    }
    for reason, contribution_ in wrong.items():
        with pytest.raises(ContributionError, match=reason) as caught:
            merger.merge(start(merger), [good, contribution_])
        assert caught.value.contribution == "learner-1"
    with pytest.raises(ContributionError, match="given twice"):
        merger.merge(start(merger), [good, good])
    with pytest.raises(MergeError, match="nothing to merge"):
        merger.merge(start(merger), [])


def test_an_outcome_that_is_not_finite_is_refused(fragment_of: MakeFragment) -> None:
    merger = merger_of(fragment_of(("vector", 4)), "sgd")
    state = merger.initial(torch.full((4,), 3e38))
    huge = Contribution("a", "bf16", encode("bf16", torch.full((4,), 3e38)), 1.0)
    with pytest.raises(MergeError, match="left the finite numbers"):
        merger.merge(state, [huge])
    with pytest.raises(MergeError, match="displacement is not finite"):
        merger.merge(state, [replace(huge, scale=10.0)])
    with pytest.raises(ValueError, match="disagree"):
        merger.replay(state, bytearray(7))


def test_version_zero_is_checked(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    with pytest.raises(ValueError, match="flat fp32"):
        merger.initial(torch.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        merger.initial(torch.full((fragment.numel,), float("nan")))


def test_payloads_straight_from_the_wire(fragment: Fragment) -> None:
    merger = merger_of(fragment)
    arrived = contributions(fragment.numel)
    raw = [replace(each, payload=bytearray(_tensor(each).tolist())) for each in arrived]
    assert_same(merger.merge(start(merger), raw).state, merger.merge(start(merger), arrived).state)


def _tensor(each: Contribution) -> Tensor:
    assert isinstance(each.payload, Tensor)
    return each.payload


def test_compiled_merges_large_fragments_and_says_so(
    fragment_of: MakeFragment, compiled: CompiledBackend
) -> None:
    fragment = fragment_of(("matrix", 400_000), ("embedding", 5_000))
    merger = FragmentMerger(fragment, MergeSettings(RDA), compiled)
    eager = FragmentMerger(fragment, MergeSettings(RDA))
    arrived = contributions(fragment.numel, "bf16", num=2)
    sums = merger.sums_of_squares("learner-0", "bf16", arrived[0].payload)
    assert sums.backend == "compiled"
    arrived[0] = replace(arrived[0], sums=sums)
    arrived[1] = replace(arrived[1], sums=eager.sums_of_squares("l", "bf16", arrived[1].payload))
    result = merger.merge(start(merger), arrived)
    assert result.backend == "compiled"
    assert torch.equal(result.delta, merger.merge(start(merger), arrived).delta)
    other = eager.merge(start(eager), arrived)
    assert other.backend == "eager"
    assert torch.allclose(result.delta.float(), other.delta.float(), rtol=2**-7)
    replayed, _ = eager.replay(start(eager), result.delta_bytes)
    assert_same(replayed, result.state)
    assert merger.merge(start(merger), contributions(fragment.numel, "int4")).backend == "eager"


def test_small_fragments_stay_eager(fragment: Fragment, compiled: CompiledBackend) -> None:
    merger = FragmentMerger(fragment, MergeSettings(RDA), compiled)
    assert merger.merge(start(merger), contributions(fragment.numel, num=2)).backend == "eager"


def test_fallback_is_reported(fragment_of: MakeFragment) -> None:
    merger = FragmentMerger(
        fragment_of(("matrix", 100)),
        MergeSettings(averaging=AveragingSettings("rda", min_cosine=0.2)),
    )
    ones = torch.ones(100)
    opposite = [
        Contribution(n, "fp32", encode("fp32", s * ones), 1.0) for n, s in (("a", 1), ("b", -1))
    ]
    result = merger.merge(start(merger), opposite)
    assert result.fallback_pieces == ("t0",) and not result.delta.any()


def test_a_chain_restored_from_a_snapshot_goes_on(fragment: Fragment) -> None:
    merger = merger_of(fragment, downlink="int4")
    state = start(merger)
    chain = Chain(first_version(state.theta))
    for seed in range(3):
        result = merger.merge(state, [contribution("a", fragment.numel, seed=seed)])
        state = result.state
        chain.append(state.published, result.increment)
    restored = Chain(state.published, chain.increments)
    assert restored.catch_up(1) == chain.catch_up(1) and len(chain.increments) == 3


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="use one of fp32, bf16, int8, int4"):
        MergeSettings(downlink_codec="fp8")  # type: ignore[arg-type]
    assert encoded_bytes("bf16", 3) == 6
