"""A learner that has lost its syncer: for how long it trains on, and what it says then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import atoll
from atoll.core import messages as msg
from atoll.core.settings import ProtocolSettings
from atoll.ferry.solitude import NEVER_S, Solitude
from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.fragments.model import tensors_of
from atoll.learner import Learner
from atoll.learner.joining import IslandOptions
from atoll.merge.chain import Chain, first_version
from ferry.lagoon import Lagoon, greet

SETTINGS = ProtocolSettings(
    M=1, P=2, H=4, tau=1, receipt="keep", beat_s=0.1, silence_s=1.0, retry_s=0.05
)
LIMIT_S = 20.0
ALONE_S = 0.3


def test_time_alone_counts_from_the_loss_until_the_next_word() -> None:
    solitude = Solitude(10.0)
    assert solitude.left_s(5.0) == NEVER_S and not solitude.sentence(5.0)
    solitude.heard()
    assert solitude.left_s(500.0) == NEVER_S, "a connection that stands may be silent"
    solitude.lost(100.0, "refused")
    solitude.lost(108.0, "no route")
    assert solitude.left_s(108.0) == 2.0 and not solitude.sentence(109.9)
    assert "no route" in solitude.sentence(110.0) and "for 10 s" in solitude.sentence(110.0)
    solitude.heard()
    assert not solitude.sentence(200.0)


def test_without_a_limit_it_is_never_too_long() -> None:
    solitude = Solitude(0.0)
    solitude.heard()
    solitude.lost(2.0, "gone")
    assert solitude.left_s(1e9) == NEVER_S and not solitude.sentence(1e9)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 8)


@pytest.fixture
def lagoon() -> Iterator[Lagoon]:
    made = Lagoon(SETTINGS)
    made.on_message = greet
    model = tiny()
    layout, tensors = Layout.from_module(model, SETTINGS.P), tensors_of(model)
    made.chains = {f: Chain(first_version(gather(layout, f, tensors).clone())) for f in range(2)}
    yield made
    made.close()


def joined(lagoon: Lagoon, max_alone_s: float) -> Learner:
    options = IslandOptions(join_s=LIMIT_S, max_alone_s=max_alone_s)
    return atoll.join(tiny(), invite=lagoon.invite, name="ann", options=options)


def steps_until(learner: Learner, until: Callable[[bool], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not until(learner.step(tokens=10)):
        assert time.monotonic() < deadline_s, "what was waited for never came"
        time.sleep(0.002)


def test_a_lost_island_stops_in_time_and_says_why(lagoon: Lagoon) -> None:
    learner = joined(lagoon, ALONE_S)
    assert learner.step(tokens=10) and not learner.why_over
    lagoon.close()
    steps_until(learner, lambda is_on: not is_on)
    assert (
        learner.is_alone
        and "was not reached" in learner.why_over
        and lagoon.address in learner.why_over
    )
    began_s = time.monotonic()
    learner.close()
    assert time.monotonic() - began_s < LIMIT_S / 2, "there is nobody to hand anything in to"


def test_a_connection_that_comes_back_in_time_begins_the_count_anew(lagoon: Lagoon) -> None:
    learner = joined(lagoon, LIMIT_S)
    solitude = learner._ferry._solitude
    for number in range(2, 4):
        lagoon.cut_all()
        steps_until(learner, lambda _, n=number: hellos(lagoon) == n)  # type: ignore[misc]
        steps_until(learner, lambda _: solitude.left_s(time.monotonic()) == NEVER_S)
    assert learner.step(tokens=10) and not learner.why_over and not learner.is_alone
    learner.close(0.0)


def hellos(lagoon: Lagoon) -> int:
    return len([message for message in lagoon.heard if isinstance(message, msg.Hello)])


def test_without_a_limit_a_lost_island_trains_on(lagoon: Lagoon) -> None:
    learner = joined(lagoon, 0.0)
    lagoon.close()
    until_s = time.monotonic() + 4 * ALONE_S
    while time.monotonic() < until_s:
        assert learner.step(tokens=10)
        time.sleep(0.01)
    learner.close(0.0)
