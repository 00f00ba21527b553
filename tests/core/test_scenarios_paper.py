"""The paper's timeline and slow learners in figures: what is merged, dropped and carried.

Virtual time without jitter, so that every figure follows from the rules. The ranges leave room for
where in a step a call falls, and for what is in flight at the end.
"""

from __future__ import annotations

import functools

import pytest

from atoll.simulator.network import Link
from pair import Run, sail

WIDE = Link(0.05, bulk_s=0.45)
"""Half a second up and half a second down, as in the design's toy."""


# ---------------------------------------------------------------- the paper's timeline


@functools.cache
def timeline(unmerged: str = "carry", receipt: str = "keep") -> tuple[Run, float]:
    """M = 2, P = 3, H = 3, tau = 2; after 12 steps learner b stalls for three."""
    run = sail([1.0, 1.0], P=3, H=3, tau=2, unmerged=unmerged, receipt=receipt)
    run.steps(12)
    at_s = run.now_s
    run["b"].stall(3.0)
    return run.go(20.0), at_s


def test_before_the_stall_everybody_is_in_every_round() -> None:
    run, at_s = timeline()
    early = [each for each in run.rounds if 8.0 < each.at_s < at_s]
    assert {(each.names, each.code) for each in early} == {(("a", "b"), "all_in")}


def test_learner_that_stalls_three_steps_is_left_out_then_merged() -> None:
    run, at_s = timeline()
    after = [each for each in run.rounds if each.at_s > at_s]
    left_out = [each for each in after if each.names == ("a",)]
    assert [each.fragment for each in left_out] == [2, 1, 0], "each fragment once, and no more"
    assert max(each.at_s for each in left_out) < at_s + 4.0
    back = {each.fragment: each for each in reversed(after) if "b" in each.names}
    assert sorted(back) == [0, 1, 2]
    assert max(each.at_s for each in back.values()) < at_s + 7.0, "in the very next round of each"
    assert all(each.names == ("a", "b") for each in after if each.at_s > at_s + 4.0)


def test_the_stalled_learner_hands_in_the_work_from_before_and_after_its_stall() -> None:
    run, at_s = timeline()
    back: dict[int, int] = {}
    for each in run.rounds:
        if each.at_s > at_s and "b" in each.names:
            back.setdefault(each.fragment, each.steps["b"])
    assert all(2 <= steps <= 4 for steps in back.values())
    assert set(run.fates("b")) <= {"merged", "in_flight", "open"}, "nothing of it is dropped"


def test_the_others_do_not_notice_the_stall() -> None:
    run, at_s = timeline()
    during = [call for call in run.calls if at_s < call.at_s < at_s + 3.5]
    assert len(during) >= 3, "a fragment a step"
    assert during[-1].names == ("a",), "without a step for three step times b is busy"
    assert run["a"].step - run["b"].step == 3
    assert run.fates("a")["merged"] > 0.9


def test_with_the_papers_receipt_the_work_in_flight_and_left_out_is_what_is_lost() -> None:
    run, _ = timeline("drop", "overwrite")
    fates = run.fates("b")
    assert {"overwritten", "unmerged"} >= set(fates) - {"merged", "in_flight", "open", "replaced"}
    assert fates["merged"] > 0.5
    kept, _ = timeline()
    assert kept.fates("b")["merged"] > fates["merged"] + 0.05


# ---------------------------------------------------------------- a slow learner


@functools.cache
def with_a_slow_one(slow_s: float, K: int | str, P: int = 6, seconds: float = 1000.0) -> Run:
    """Three learners of one second a step, and d."""
    return sail([1.0, 1.0, 1.0, slow_s], WIDE, P=P, H=24, K=K).go(seconds)


@pytest.mark.parametrize("slow_s", [1.2, 10.0])
def test_under_k_1_a_slow_learner_costs_the_others_nothing(slow_s: float) -> None:
    run = with_a_slow_one(slow_s, 1)
    assert 23.0 <= run.effective_h("a", 60.0) <= 24.0, "the launch floor of the fast ones"
    for name in "abc":
        fates = run.fates(name)
        assert fates["merged"] > 0.97, "all but the last H steps"
        assert set(fates) <= {"merged", "in_flight", "open"}
        assert run.share_of_rounds(name, 60.0) > 0.97


def test_under_k_1_a_learner_20_percent_slower_hands_in_the_steps_that_it_has() -> None:
    run = with_a_slow_one(1.2, 1)
    assert run.effective_h("d", 60.0) == pytest.approx(23.3 / 1.2, abs=0.7)
    assert run.share_of_rounds("d", 60.0) > 0.8, "grace reaches most of its boundaries"
    fates = run.fates("d")
    assert fates["merged"] > 0.95
    assert set(fates) <= {"merged", "in_flight", "open"}, "what misses a round is in the next"


def test_under_k_1_a_learner_ten_times_slower_is_merged_with_the_few_steps_it_has() -> None:
    run = with_a_slow_one(10.0, 1)
    assert run.effective_h("d", 60.0) == pytest.approx(2.35, abs=0.2), "a tenth of the others'"
    assert 0.2 < run.share_of_rounds("d", 60.0) < 0.7, "a boundary every ten seconds"
    fates = run.fates("d")
    assert fates["merged"] > 0.8
    assert fates.get("too_old", 0) == 0, "its few steps are never many"


def test_with_many_fragments_a_slow_learner_comes_to_all_of_them() -> None:
    run = with_a_slow_one(10.0, 1, P=12, seconds=800.0)
    merged = [h.ledger.merged / run["d"].core.state.tokens for h in run["d"].core.state.holdings]
    assert min(merged) > 0.6, "one install a boundary, and the furthest behind comes first"
    assert run.fates("d")["merged"] > 0.75


def test_under_k_all_a_learner_20_percent_slower_sets_the_pace() -> None:
    run = with_a_slow_one(1.2, "all")
    assert run.effective_h("d", 60.0) == pytest.approx(24.0, abs=0.2)
    assert run.effective_h("a", 60.0) == pytest.approx(28.8, abs=0.3)
    assert run.participation(60.0) == 1.0
    assert {each.code for each in run.merges_since(60.0)} == {"all_in"}
    for name in "abcd":
        assert set(run.fates(name)) <= {"merged", "in_flight", "open"}


def test_under_k_all_a_learner_ten_times_slower_drags_everybody_along() -> None:
    run = with_a_slow_one(10.0, "all", seconds=1500.0)
    assert run.effective_h("d", 60.0) == pytest.approx(24.0, abs=0.2)
    assert run.effective_h("a", 60.0) == pytest.approx(240.0, abs=2.0)
    assert run.participation(60.0) == 1.0
    assert 0.8 < run.fates("a")["merged"] < 0.95, "the rest is not lost, a round takes 240 steps"
    assert set(run.fates("a")) <= {"merged", "in_flight", "open"}


# ---------------------------------------------------------------- receipts in figures


@functools.cache
def toy(receipt: str, tau: int) -> Run:
    """Four learners, P = H = 24, K = 1, half of them 18 % slower."""
    paces = [1.0, 1.0, 1.18, 1.18]
    return sail(paces, WIDE, P=24, H=24, tau=tau, receipt=receipt).go(240.0)


def test_keep_merges_nearly_everything_and_overwrite_loses_what_was_done_under_way() -> None:
    keep, over = toy("keep", 2), toy("overwrite", 2)
    for name in "abcd":
        fates = keep.fates(name)
        assert set(fates) <= {"merged", "in_flight", "open"}
        lost = over.fates(name)
        assert set(lost) - set(fates) <= {"overwritten"}
        under_way = 1.5 / 24  # from the cut to the install there is a step or two of every 24
        assert 0.5 * under_way < lost["overwritten"] < 2.2 * under_way


def test_more_overlap_finds_more_learners() -> None:
    two, four = toy("overwrite", 2), toy("overwrite", 4)
    assert two.participation(60.0) < four.participation(60.0) > 0.94
    assert four.fates("a")["overwritten"] >= two.fates("a")["overwritten"]
    for run in (two, four):
        assert 23.0 <= run.effective_h("a", 60.0) <= 24.0
        solo = [each for each in run.merges_since(60.0) if len(each.names) == 1]
        assert len(solo) <= len(run.merges_since(60.0)) // 50
