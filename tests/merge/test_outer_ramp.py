"""Outer rate and momentum that go to their values over the first versions of a fragment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from atoll.fragments import Fragment
from atoll.merge.merge import Contribution, FragmentMerger, MergeSettings
from atoll.merge.outer import OuterSettings

MakeFragment = Callable[..., Fragment]
RAMP = OuterSettings("nesterov", lr=0.4, momentum=0.8, ramp_merges=4)


def test_the_ramp_begins_with_a_plain_average_and_ends_at_the_settings() -> None:
    first, last = RAMP.at(1), RAMP.at(5)
    assert (first.lr, first.momentum) == (1.0, 0.0)
    assert last is RAMP
    lrs = [RAMP.at(version).lr for version in range(1, 7)]
    assert lrs == sorted(lrs, reverse=True)
    assert lrs[4:] == [0.4, 0.4]


def test_without_a_ramp_every_version_has_the_settings() -> None:
    settings = OuterSettings("nesterov", lr=0.4, momentum=0.8, ramp_merges=0)
    assert settings.at(1) is settings


@pytest.mark.parametrize("fields", [{"ramp_merges": -1}, {"kind": "adam", "ramp_merges": 2}])
def test_a_ramp_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ramp_merges"):
        OuterSettings(**fields)  # type: ignore[arg-type]


def test_a_recovery_inside_the_ramp_takes_the_same_steps(fragment_of: MakeFragment) -> None:
    """From a snapshot and the log alone: the version says where in the ramp a merge is."""
    fragment = fragment_of(("matrix", 64))
    merger = FragmentMerger(fragment, MergeSettings(outer=RAMP))
    generator = torch.Generator().manual_seed(1)
    state = merger.initial(torch.zeros(64))
    states, log = [state], []
    for _ in range(6):
        body = torch.randn(64, generator=generator).bfloat16()
        merged = merger.merge(states[-1], [Contribution("a", "bf16", body, 1.0)])
        states.append(merged.state)
        log.append(merged.delta)
    recovered = states[2]
    for delta in log[2:]:
        recovered, _ = FragmentMerger(fragment, MergeSettings(outer=RAMP)).replay(recovered, delta)
    assert recovered.version == 6
    assert torch.equal(recovered.theta, states[-1].theta)
    assert torch.equal(recovered.outer["momentum"], states[-1].outer["momentum"])


def test_the_first_merge_of_a_ramp_is_that_of_plain_sgd(fragment_of: MakeFragment) -> None:
    fragment = fragment_of(("matrix", 64))
    body = torch.randn(64, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = []
    for outer in (RAMP, OuterSettings("sgd", lr=1.0)):
        merger = FragmentMerger(fragment, MergeSettings(outer=outer))
        contribution = Contribution("a", "bf16", body, 1.0)
        found.append(merger.merge(merger.initial(torch.zeros(64)), [contribution]).state.theta)
    assert torch.equal(*found)


def test_momentum_comes_slowly_unless_asked_otherwise() -> None:
    assert OuterSettings().at(1).momentum == 0.0 and OuterSettings().at(1).lr == 1.0
    assert 0 < OuterSettings().at(16).momentum < OuterSettings().momentum
    assert OuterSettings().at(31) == OuterSettings()
    for kind in ("sgd", "adam"):
        assert OuterSettings(kind).at(1) == OuterSettings(kind)  # type: ignore[arg-type]
