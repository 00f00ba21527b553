"""The roster: live, busy, away, by what was heard and what was not."""

from __future__ import annotations

from atoll.core.membership import AWAY, BUSY, LIVE, NEVER, Roster
from atoll.core.settings import ProtocolSettings

S = ProtocolSettings(M=2, P=1, H=4, busy_after_steps=3.0, silence_s=10.0, beat_s=2.0)


def roster(pace_s: float = 1.0) -> Roster:
    """Learner "a", live at second 0, one step done."""
    made = Roster()
    made.admit("a", 1)
    made.connect("a", 0.0, S)
    made.stepped("a", 0.0, 1, 100, pace_s)
    made.heard("a", 0.0, S)
    return made


def state(made: Roster) -> str:
    return made.members["a"].state


def test_a_new_life_is_away_until_it_connects() -> None:
    made = Roster()
    made.admit("a", 1)
    assert state(made) == AWAY
    assert made.next_deadline_s() == NEVER
    made.connect("a", 5.0, S)
    assert state(made) == LIVE


def test_a_learner_without_a_step_for_three_step_times_is_busy_and_a_step_brings_it_back() -> None:
    made = Roster()
    made.admit("a", 1)
    made.connect("a", 0.0, S)
    made.stepped("a", 0.0, 1, 100, 1.0)
    assert made.expire(2.9, S) == []
    assert made.idle("a", 3.5, 3.5, S)
    assert state(made) == BUSY
    assert made.stepped("a", 4.0, 2, 200, 1.0)
    assert state(made) == LIVE


def test_a_slow_learner_is_not_busy_by_the_pace_of_others() -> None:
    made = roster(pace_s=10.0)
    assert not made.idle("a", 29.0, 29.0, S)
    assert made.idle("a", 31.0, 31.0, S)


def test_before_its_first_step_nobody_is_busy() -> None:
    made = Roster()
    made.admit("a", 1)
    made.connect("a", 0.0, S)
    assert not made.idle("a", 9.0, 9.0, S), "compiling a first step may take long"


def test_silence_makes_away_though_the_connection_stands_and_any_word_brings_back() -> None:
    made = roster()
    assert made.expire(10.0, S) == ["a"]
    assert state(made) == AWAY
    assert made.next_deadline_s() == NEVER
    assert made.heard("a", 11.0, S)
    assert state(made) == LIVE
    assert made.next_deadline_s() < NEVER


def test_a_word_does_not_bring_back_who_is_not_connected() -> None:
    made = roster()
    made.disconnect("a")
    assert not made.heard("a", 1.0, S)
    assert state(made) == AWAY


def test_beats_without_steps_keep_a_learner_connected_but_busy() -> None:
    made = roster()
    for second in range(2, 40, 2):
        made.heard("a", float(second), S)
        made.expire(float(second), S)
        made.idle("a", float(second), float(second), S)
    assert state(made) == BUSY


def test_what_the_loop_says_it_does_makes_busy_at_once() -> None:
    made = roster()
    assert made.busy("a")
    assert not made.busy("a"), "said once"
    assert state(made) == BUSY


def test_the_deadline_is_never_in_the_past_of_what_was_just_looked_at() -> None:
    made = roster()
    now_s = 0.0
    for second in range(1, 60):
        now_s += 0.5
        if second % 3:
            made.heard("a", now_s, S)
        if second % 5 == 0:
            made.stepped("a", now_s, 1 + second, 100, 1.0)
        made.expire(now_s, S)
        assert made.next_deadline_s() > now_s


def test_only_the_present_life_is_current() -> None:
    made = roster()
    assert made.current("a", 1) is made.members["a"]
    assert made.current("a", 2) is None
    assert made.current("b", 1) is None
    made.admit("a", 2)
    assert made.current("a", 1) is None
    assert state(made) == AWAY


def test_who_is_removed_is_looked_at_no_more() -> None:
    made = roster()
    made.remove("a")
    assert made.expire(100.0, S) == []
    assert made.next_deadline_s() == NEVER
