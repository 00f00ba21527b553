"""The schedule: what is due is counted in steps of learners, and nothing else makes it due."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from atoll.core.schedule import Schedule
from atoll.core.settings import ProtocolSettings


def schedule(*names: str, **settings: Any) -> tuple[Schedule, ProtocolSettings]:
    s = ProtocolSettings(**({"M": 8, "P": 4, "H": 8} | settings))
    made = Schedule.of(tuple(range(s.P)), s)
    for name in names:
        made.add(name, 0, s)
        made.set_counts(name, True)
    return made, s


def play(made: Schedule, s: ProtocolSettings, num_steps: int, K: int = 1) -> list[tuple[int, int]]:
    """All learners step together; (step, fragment) of each call."""
    calls, begin = [], max(track.step for track in made.tracks.values())
    versions = [0] * s.P
    for step in range(begin + 1, begin + num_steps + 1):
        for name in made.tracks:
            made.report(name, step)
        while (index := made.pick(K, [False] * s.P)) >= 0:
            calls.append((step, index))
            made.called(index, s.period_steps(versions[index]))
            versions[index] += 1
    return calls


def test_first_calls_are_staggered_over_one_h_and_each_comes_again_after_h() -> None:
    made, s = schedule("a", look_ahead=0)
    assert play(made, s, 18) == [
        (2, 1), (4, 2), (6, 3), (8, 0), (10, 1), (12, 2), (14, 3), (16, 0), (18, 1),
    ]  # fmt: skip


def test_the_look_ahead_brings_first_calls_forward_and_no_later_ones() -> None:
    made, s = schedule("a", look_ahead=1)
    assert play(made, s, 12) == [(1, 1), (3, 2), (5, 3), (7, 0), (9, 1), (11, 2)]


def test_h_grows_from_two_calls_a_step_to_one_in_two() -> None:
    made, s = schedule("a", P=6, H=16, first_H=4, growing_rounds=3, look_ahead=0)
    calls = play(made, s, 200)
    by_step = [step for step, _ in calls]
    assert all(by_step.count(step) <= 2 for step in by_step), "a boundary cuts two at most"
    for index in range(6):
        steps = [step for step, called in calls if called == index]
        gaps = [after - before for before, after in pairwise(steps)]
        least = [s.period_steps(version) for version in range(len(gaps))]
        assert least[:4] == [4, 8, 12, 16] and set(least[4:]) == {16}
        assert all(gap >= floor for gap, floor in zip(gaps, least, strict=True))
        assert all(gap <= floor + 6 for gap, floor in zip(gaps, least, strict=True))
        assert gaps[-4:] == [16] * 4


def test_a_learner_that_joins_waits_the_h_of_that_time() -> None:
    made, s = schedule("a", P=1, H=16, first_H=4, growing_rounds=2, look_ahead=0)
    play(made, s, 4)
    made.add("b", 100, s)
    assert made.tracks["b"].thresholds == [104]
    play(made, s, 20)
    made.add("c", 100, s)
    assert made.tracks["c"].thresholds == [116]


def test_with_p_equal_to_h_one_fragment_is_called_per_step() -> None:
    made, s = schedule("a", P=24, H=24)
    calls = play(made, s, 240)
    assert [step for step, _ in calls] == list(range(1, 241)), "no step without, none with two"
    later = [index for _, index in calls if index >= 0][24:48]
    assert sorted(later) == list(range(24))


def test_the_pacing_learner_is_the_kth_fastest() -> None:
    made, _s = schedule("a", "b", "c", P=1, look_ahead=0)
    for name, step in (("a", 100), ("b", 7), ("c", 8)):
        made.report(name, step)
    assert made.pick(2, [False]) == 0, "two have done H steps"
    assert made.pick(3, [False]) == -1, "the third has not"
    made.report("b", 8)
    assert made.pick(3, [False]) == 0


def test_learners_that_do_not_count_make_nothing_due() -> None:
    made, _s = schedule("a", "b", P=1, look_ahead=0)
    made.set_counts("a", False)
    made.report("a", 100)
    assert made.pick(1, [False]) == -1
    made.set_counts("a", True)
    assert made.pick(1, [False]) == 0, "what it did meanwhile counts once it is back"


def test_after_an_outage_the_most_overdue_come_first_at_a_distance() -> None:
    made, s = schedule("a", look_ahead=0)
    play(made, s, 8)
    made.report("a", 100)  # all four are overdue at once; 1 was called the longest ago
    assert made.pick(1, [False] * 4) == 1
    made.called(1, s.H)
    assert made.pick(1, [False] * 4) == -1, "one per H/P steps"
    assert play(made, s, 6) == [(102, 2), (104, 3), (106, 0)]


def test_a_fragment_with_a_round_open_is_passed_over() -> None:
    made, _s = schedule("a", look_ahead=0)
    made.report("a", 100)
    assert made.pick(1, [False, True, False, False]) == 2


def test_a_newcomer_does_not_bring_a_call_forward() -> None:
    made, s = schedule("a", P=1, look_ahead=0)
    play(made, s, 12)  # called at 8, again due at 16
    made.add("b", 0, s)
    made.set_counts("b", True)
    made.report("b", 4)
    assert made.pick(1, [False]) == -1
    made.report("a", 16)
    assert made.pick(1, [False]) == 0


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["report", "report", "report", "counts", "add", "remove", "call"]),
        st.sampled_from("abc"),
        st.integers(0, 6),
    ),
    max_size=60,
)


@given(ACTIONS, st.integers(1, 3))
def test_the_counts_are_what_a_count_by_hand_gives(
    actions: list[tuple[str, str, int]], quorum: int
) -> None:
    made, s = schedule("a", "b", P=3, H=5)
    for action, name, number in actions:
        track = made.tracks.get(name)
        if action == "add":
            made.add(name, number, s)
        elif action == "remove":
            made.remove(name)
        elif action == "call" and (index := made.pick(quorum, [False] * s.P)) >= 0:
            made.called(index, s.H)
        elif track is not None and action == "report":
            made.report(name, track.step + number)
        elif track is not None and action == "counts":
            made.set_counts(name, number > 2)
        by_hand(made, quorum)


def by_hand(made: Schedule, quorum: int) -> None:
    counted = [track for track in made.tracks.values() if track.counts]
    assert made.num_counted == len(counted)
    assert made.num_apart == len([1 for t in counted if t.step >= t.apart_at])
    for index in range(len(made.fragments)):
        due = len([1 for t in counted if t.step >= t.thresholds[index]])
        assert made.num_due[index] == due
    index = made.pick(quorum, [False] * len(made.fragments))
    assert index < 0 or made.num_due[index] >= quorum
