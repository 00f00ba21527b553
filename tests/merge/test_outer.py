"""Outer optimizers against their formulas; presets and settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atoll.fragments import Fragment
from atoll.merge.outer import OuterSettings, initial_state, outer_step

MakeFragment = Callable[..., Fragment]
NUMEL = (1 << 18) + 33


def deltas(num: int, numel: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(numel, generator=generator).bfloat16() for _ in range(num)]


def run(settings: OuterSettings, fragment: Fragment, steps: list[Tensor]) -> Tensor:
    theta, state = torch.ones(fragment.numel), initial_state(settings, fragment.numel)
    for delta in steps:
        theta, state = outer_step(settings, fragment, theta, state, delta)
    return theta


def test_sgd(fragment_of: MakeFragment) -> None:
    steps = deltas(2, NUMEL)
    found = run(OuterSettings("sgd", lr=0.5), fragment_of(("matrix", NUMEL)), steps)
    assert torch.allclose(found, 1 + 0.5 * (steps[0].float() + steps[1].float()), atol=1e-6)


def test_nesterov(fragment_of: MakeFragment) -> None:
    steps = deltas(3, NUMEL)
    theta, momentum = torch.ones(NUMEL).double(), torch.zeros(NUMEL).double()
    for delta in steps:
        momentum = 0.9 * momentum + delta.double()
        theta = theta + 0.7 * (delta.double() + 0.9 * momentum)
    found = run(OuterSettings("nesterov", ramp_merges=0), fragment_of(("matrix", NUMEL)), steps)
    assert torch.allclose(found.double(), theta, atol=1e-5)


def test_adam_is_torch_adam_on_the_negative(fragment_of: MakeFragment) -> None:
    steps = deltas(4, NUMEL)
    weights = torch.nn.Parameter(torch.ones(NUMEL))
    adam = torch.optim.Adam([weights], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for delta in steps:
        weights.grad = -delta.float()
        adam.step()
    found = run(OuterSettings("adam", lr=0.1), fragment_of(("matrix", NUMEL)), steps)
    assert torch.allclose(found, weights.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_buffers_are_plainly_averaged(fragment_of: MakeFragment, kind: str) -> None:
    fragment = fragment_of(("matrix", 10), ("vector", 6), buffers=(1,))
    settings = OuterSettings(kind, lr=0.3, ramp_merges=0)  # type: ignore[arg-type]
    steps = deltas(3, 16)
    theta, state = torch.ones(16), initial_state(settings, 16)
    for delta in steps:
        before = theta.clone()
        theta, state = outer_step(settings, fragment, theta, state, delta)
        assert torch.equal(theta[10:], before[10:] + delta[10:].float())
        assert not torch.equal(theta[:10], before[:10] + delta[:10].float())
    assert all(not tensor[10:].any() for tensor in state.values() if tensor.dim())


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_what_was_given_stays_as_it_was(fragment_of: MakeFragment, kind: str) -> None:
    settings = OuterSettings(kind, ramp_merges=0)  # type: ignore[arg-type]
    fragment, (delta,) = fragment_of(("matrix", 50)), deltas(1, 50)
    theta, state = torch.ones(50), initial_state(settings, 50)
    copies = [tensor.clone() for tensor in (theta, delta, *state.values())]
    outer_step(settings, fragment, theta, state, delta)
    for tensor, copy in zip((theta, delta, *state.values()), copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize(
    "wrong", [{"kind": "lion"}, {"lr": 0.0}, {"lr": float("nan")}, {"momentum": 1.0}, {"beta2": -1}]
)
def test_settings_are_checked(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match="outer"):
        OuterSettings(**wrong)  # type: ignore[arg-type]
