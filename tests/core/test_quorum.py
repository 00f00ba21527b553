"""When a round closes: all in, quorum and grace over, the longest grace over, or its deadline."""

from __future__ import annotations

import pytest

from atoll.core.ids import Cut, CutId
from atoll.core.quorum import ABANDON, CLOSE, NEVER, THIN, WAIT, Round, judge, note


def opened(*expected: tuple[str, int]) -> Round:
    """Called at 0, grace 2 s, longest grace 4 s, deadline 10 s."""
    made = Round(1, 0.0, 10.0, 2.0, 4.0)
    made.expected = dict(expected)
    made.recount({name: True for name, _ in expected})
    return made


def arrive(round: Round, name: str, live: bool = True) -> None:
    round.arrive(name, Cut(CutId(name, 1, 1), 0, 0, 0, 1, 1, 1, 1), waited_for=live)


def verdict(round: Round, now_s: float, K: int = 1, share: float = 0.5) -> tuple[str, str, float]:
    note(round, K, share, now_s)
    found = judge(round, K, now_s)
    assert judge(round, K, now_s) == found, "asking changes nothing"
    return found.kind, found.reason.code, found.until_s


def test_all_called_are_in_and_the_round_closes_at_once() -> None:
    made = opened(("a", 100), ("b", 100))
    arrive(made, "a")
    arrive(made, "b")
    assert verdict(made, 0.5) == (CLOSE, "all_in", 0.5)


def test_quorum_is_in_and_grace_runs_from_that_moment() -> None:
    made = opened(("a", 100), ("b", 100))
    arrive(made, "a")
    assert verdict(made, 1.0) == (WAIT, "grace", 3.0)
    assert verdict(made, 2.9) == (WAIT, "grace", 3.0)
    assert verdict(made, 3.0) == (CLOSE, "grace_over", 3.0)


def test_k_learners_with_too_few_tokens_wait_for_the_longest_grace_and_close_thin() -> None:
    made = opened(("a", 10), ("b", 100))
    arrive(made, "a")
    assert verdict(made, 1.0) == (WAIT, "share", 5.0)
    assert verdict(made, 4.9)[0] == WAIT
    assert verdict(made, 5.0) == (THIN, "thin", 5.0)


def test_below_k_nothing_closes_before_the_deadline_which_gives_up() -> None:
    made = opened(("a", 100), ("b", 100), ("c", 1))
    arrive(made, "a")
    assert verdict(made, 9.9, K=2) == (WAIT, "below_quorum", 10.0)
    assert verdict(made, 10.0, K=2) == (ABANDON, "abandoned", 10.0)


def test_the_deadline_ends_any_grace() -> None:
    made = opened(("a", 100), ("b", 100))
    arrive(made, "a")
    assert verdict(made, 9.5) == (WAIT, "grace", 10.0)
    assert verdict(made, 10.0)[0] == CLOSE


def test_grace_ends_early_when_the_last_learner_waited_for_goes_away() -> None:
    made = opened(("a", 100), ("b", 100))
    arrive(made, "a")
    assert verdict(made, 1.0)[0] == WAIT
    made.recount({"a": True, "b": False})
    assert verdict(made, 1.1) == (CLOSE, "all_in", 1.1)


def test_a_learner_that_goes_away_takes_its_tokens_out_of_the_share() -> None:
    made = opened(("a", 100), ("b", 500), ("c", 50))
    arrive(made, "a")
    assert verdict(made, 1.0)[1] == "share"
    made.recount({"a": True, "b": False, "c": True})
    assert verdict(made, 1.5) == (WAIT, "grace", 3.5)


def test_one_that_was_not_waited_for_and_comes_all_the_same_counts() -> None:
    made = opened(("a", 100), ("b", 100))
    made.recount({"a": True, "b": False})
    arrive(made, "b", live=False)
    assert (made.num_waiting, made.arrived_tokens, made.expected_tokens) == (1, 100, 200)


def test_a_learner_missed_too_often_is_waited_for_beyond_the_grace_for_its_time() -> None:
    made = opened(("a", 100), ("b", 100))
    made.patience = {"b": 7.0}
    arrive(made, "a")
    assert verdict(made, 1.0) == (WAIT, "grace", 7.0)
    assert verdict(made, 7.0)[0] == CLOSE
    arrive(made, "b")
    assert made.patient_until_s() == 0.0


def test_a_quorum_that_is_lost_again_starts_its_grace_anew() -> None:
    made = opened(("a", 100), ("b", 100), ("c", 100))
    arrive(made, "a")
    arrive(made, "b")
    assert verdict(made, 1.0, K=2) == (WAIT, "grace", 3.0)
    del made.arrived["a"], made.expected["a"]
    assert verdict(made, 1.5, K=2)[1] == "below_quorum"
    assert (made.enough_s, made.quorum_s) == (NEVER, NEVER)


def test_a_cut_that_comes_uncalled_or_twice_is_not_for_this_round() -> None:
    made = opened(("a", 100))
    arrive(made, "a")
    for name in ("a", "b"):
        with pytest.raises(AssertionError, match="uncalled"):
            arrive(made, name)
