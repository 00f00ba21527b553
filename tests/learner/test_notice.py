"""A loop that asked to hear of SIGTERM: it ends by itself, and its last work is handed in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

import atoll
from atoll.core import messages as msg
from atoll.learner import JoinError
from atoll.merge.chain import Chain, first_version
from ferry.lagoon import Lagoon, greet
from learner.test_learner import SETTINGS, SOON, flats, tiny, train

HEARS = replace(SOON, leave_on=(signal.SIGUSR1,))


@pytest.fixture
def lagoon() -> Iterator[Lagoon]:
    made = Lagoon(SETTINGS)
    made.on_message = greet
    made.chains = {f: Chain(first_version(flat)) for f, flat in enumerate(flats(tiny(1)))}
    yield made
    made.close()


def test_step_says_that_the_loop_is_to_end_and_the_last_work_is_handed_in(lagoon: Lagoon) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    model = tiny()
    with atoll.join(model, invite=lagoon.invite, name="ann", options=HEARS) as learner:
        train(model)
        assert learner.step(tokens=10)
        os.kill(os.getpid(), signal.SIGUSR1)
        train(model)
        assert not learner.step(tokens=10)
    assert {said["cut"]["end_token"] for said in lagoon.commits.values()} == {20}
    left = lagoon.heard[-1]
    assert isinstance(left, msg.Leave) and left.why == "SIGUSR1: it was told to leave"
    assert learner.farewell == left.why
    assert signal.getsignal(signal.SIGUSR1) is before, "the handler is as it was"


def test_without_asking_no_signal_is_touched(lagoon: Lagoon) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with atoll.join(tiny(), invite=lagoon.invite, name="ann", options=SOON):
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_time_to_hand_in_counts_from_the_signal(
    lagoon: Lagoon, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    options = replace(HEARS, leave_s=20.0)
    with atoll.join(model, invite=lagoon.invite, name="ann", options=options) as learner:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not learner.step(tokens=10)
        assert 0.0 < learner.notice.left_s(20.0) <= 20.0
        monkeypatch.setattr(learner.notice, "_given_s", 0.0)
        assert learner.notice.left_s(20.0) == 0.0
    assert not lagoon.commits, "there was no time left, so it went at once"


def test_only_the_main_thread_can_ask_for_signals(lagoon: Lagoon) -> None:
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            atoll.join(tiny(), invite=lagoon.invite, name="ann", options=HEARS)
        except JoinError as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20.0)
    assert raised and "main thread" in str(raised[0])
