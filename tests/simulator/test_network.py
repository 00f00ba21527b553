"""The made-up network: delay, loss, repeats, reordering, and bulk that takes time by its size."""

from __future__ import annotations

import random

import pytest

from atoll.core import messages as msg
from atoll.simulator.network import Link
from pair import ROUGH, Run, sail


def delays(link: Link, num: int = 2000) -> list[list[float]]:
    dice = random.Random(7)
    return [link.delays(dice) for _ in range(num)]


def test_a_plain_link_delivers_everything_once_after_its_delay() -> None:
    assert delays(Link(delay_s=0.2), 50) == [[0.2]] * 50


def test_jitter_stays_within_its_bound() -> None:
    times = [each for one in delays(Link(0.2, jitter_s=0.1)) for each in one]
    assert 0.2 <= min(times) < 0.21 < 0.29 < max(times) <= 0.3


def test_loss_and_repeats_come_as_often_as_they_should() -> None:
    found = delays(Link(0.1, loss=0.2, duplicate=0.1))
    lost = sum(not each for each in found) / len(found)
    twice = sum(len(each) == 2 for each in found) / len(found)
    assert lost == pytest.approx(0.2, abs=0.03)
    assert twice == pytest.approx(0.8 * 0.1, abs=0.03)


def test_reordering_delays_some_beyond_those_sent_later() -> None:
    times = [each[0] for each in delays(Link(0.1, reorder=0.3))]
    assert sum(each > 0.15 for each in times) > 100
    assert max(times) <= 0.5


def heard(run: Run, kind: type) -> int:
    return sum(party == "a" and type(event) is kind for party, _, event in run.events)


def test_a_cut_link_delivers_nothing_not_even_what_was_under_way() -> None:
    run = sail([1.0], Link(delay_s=2.0))
    run.keep_events = True
    run.go(60.0)
    before = heard(run, msg.Progress)
    assert before > 5
    run["a"].cut_link()
    run.go(30.0)
    assert heard(run, msg.Progress) == before
    run["a"].mend_link()
    run.go(30.0)
    assert heard(run, msg.Progress) > before


def test_a_frozen_process_hears_later_and_a_killed_one_never() -> None:
    run = sail([1.0])
    run.keep_events = True
    run.go(20.0)
    before = heard(run, msg.Progress)
    run["a"].freeze(5.0)
    run.go(4.0)
    assert heard(run, msg.Progress) == before
    run.go(1.5)
    assert heard(run, msg.Progress) > before
    run["a"].kill()
    before = heard(run, msg.Progress)
    run.go(50.0)
    assert heard(run, msg.Progress) == before


def test_the_same_seed_gives_the_same_run_and_another_one_does_not() -> None:
    def story(seed: int) -> list[tuple[str, float, object]]:
        from atoll.simulator.world import Conditions

        run = sail([1.0, 1.1], ROUGH, conditions=Conditions(seed=seed))
        run.keep_events = True
        return run.go(60.0).events

    assert story(1) == story(1)
    assert story(1) != story(2)
