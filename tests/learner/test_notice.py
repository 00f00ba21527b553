"""A loop that asked to hear of SIGTERM: it ends by itself, and its last work is handed in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import atoll
from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.learner import JoinError
from atoll.merge.chain import Chain, first_version
from atoll.tape.read import Entry, read_tapes
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


def test_a_join_that_fails_at_its_end_leaves_no_learner_behind(lagoon: Lagoon) -> None:
    nobody_hears_it = replace(SOON, leave_on=(signal.SIGKILL,))
    with pytest.raises(OSError, match="Invalid argument"):
        atoll.join(tiny(), invite=lagoon.invite, name="ann", options=nobody_hears_it)
    assert "atoll-ferry" not in {thread.name for thread in threading.enumerate()}
    left = lagoon.heard[-1]
    assert isinstance(left, msg.Leave) and left.why == "it could not join"


def test_the_tape_holds_the_leaving_and_ends_properly(lagoon: Lagoon, tmp_path: Path) -> None:
    options = replace(SOON, tapes=tmp_path)
    with atoll.join(tiny(), invite=lagoon.invite, name="ann", options=options) as learner:
        learner.step(tokens=10)
    ((segment,),) = [tape.segments for tape in read_tapes(tmp_path)]
    assert segment.ended and not segment.torn
    seen = [item for item in segment.items() if isinstance(item, Entry)]
    assert any(isinstance(each.event, ev.LeaveAsked) for each in seen)
    assert isinstance(seen[-1].effects[-1], fx.Over)
