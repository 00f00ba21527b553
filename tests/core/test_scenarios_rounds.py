"""Rounds: how they are called, when they close, and what becomes of a late cut.

Rules of "A round is called", "It closes", "A late cut never opens a round", "Admissible",
"Merge". The table from its sentences to tests is in README.md beside this file.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import CutId
from atoll.simulator.network import Link
from pair import HandLearner, HandShard, Run, codes, of, said, sail, sends

# ---------------------------------------------------------------- a round is called


def test_nothing_is_called_before_version_0_is_durable() -> None:
    shard = HandShard("a", P=1, H=4)
    empty = HandShard("a", P=1, H=4)
    empty.core.state.fragments[0].version = -1
    assert said(shard.steps(4), msg.Call)
    assert not said(empty.steps(9), msg.Call)


def test_a_fragment_is_called_from_every_live_learner_at_once_after_h_steps() -> None:
    shard = HandShard("a", "b", "c", H=4, look_ahead=0)
    assert not said(shard.steps(3), msg.Call)
    assert sends(shard.steps(1), msg.Call) == [(("a", "b", "c"), msg.Call(1, 0, 1, 2))]


def test_first_calls_are_staggered_and_the_look_ahead_moves_only_them() -> None:
    shard = HandShard("a", P=4, H=8, look_ahead=1)
    called = []
    for step in range(1, 17):
        for call in said(shard.steps(1), msg.Call):
            called.append((step, call.fragment))
            shard.arrive("a", call.fragment)
            shard.merge(call.fragment)
    assert called == [(1, 1), (3, 2), (5, 3), (7, 0), (9, 1), (11, 2), (13, 3), (15, 0)]


@pytest.mark.parametrize("pace_s", [0.001, 1.0, 600.0])
def test_between_two_calls_the_pacing_learner_does_h_steps_whatever_time_they_take(
    pace_s: float,
) -> None:
    shard = HandShard("a", H=4, pace_s=pace_s)
    called = []
    for step in range(1, 20):
        if said(shard.steps(1), msg.Call):
            called.append(step)
            shard.arrive("a")
            shard.merge()
    assert called == [3, 7, 11, 15, 19]


@pytest.mark.parametrize(("K", "caller"), [(1, "a"), (2, "b"), ("all", "c")])
def test_the_pacing_learner_is_the_kth_fastest(K: int, caller: str) -> None:
    shard = HandShard("a", "b", "c", H=4, K=K, look_ahead=0)
    for name in ("a", "b", "c"):
        effects: list[fx.Effect] = []
        for _ in range(9):
            effects += shard.report(name)
        assert bool(said(effects, msg.Call)) == (name == caller)
        if name == caller:
            return


def test_local_step_numbers_are_never_compared() -> None:
    shard = HandShard("a", H=4)
    for _ in range(3):
        shard.round("a")
    shard.join("b")
    assert shard.step == {"a": 12, "b": 0}
    effects = shard.steps(4)
    assert sends(effects, msg.Call)[0][0] == ("a", "b")
    shard.arrive("a")
    shard.arrive("b")
    assert {p.cut.id.learner: p.weight for p in shard.merge_order().parts} == {
        "a": 4 * 100 * 100,
        "b": 3 * 100 * 100 + 100 * 100,
    }, "the newcomer weighs by its own work"


def test_busy_and_away_learners_are_not_called() -> None:
    shard = HandShard("a", "b", "c", H=4, look_ahead=0)
    shard.beat("b", busy="evaluation")
    shard.lose("c")
    assert sends(shard.steps(4, "a"), msg.Call)[0][0] == ("a",)


def test_after_an_outage_the_most_overdue_come_first_at_the_distance_of_h_over_p() -> None:
    shard = HandShard("a", P=3, H=9, look_ahead=0)
    for _ in range(9):
        for call in said(shard.steps(1), msg.Call):
            shard.arrive("a", call.fragment)
            shard.merge(call.fragment)
    shard.lose("a")
    shard.now_s += 1000
    shard.back("a")
    shard.step["a"] += 100
    called = []
    for step in range(1, 10):
        for call in said(shard.steps(1), msg.Call):
            called.append((step, call.fragment))
            shard.arrive("a", call.fragment)
            shard.merge(call.fragment)
    assert called == [(1, 1), (4, 2), (7, 0)], "one per H/P steps, the longest not called first"


@pytest.fixture(scope="module")
def eight() -> Run:
    """The design's toy: M = 8, P = H = 24, K = 1, one second steps, half a second up and down."""
    run = sail([1.0] * 8, Link(0.05, bulk_s=0.45), P=24, H=24, tau=3)
    for node in run.world.learners.values():
        node.island = replace(node.island, step_jitter=0.05)
    return run.go(400.0)


def test_effective_h_is_at_the_launch_floor_and_never_more_than_a_step_below(eight: Run) -> None:
    assert 22.7 <= eight.effective_h("a", 30.0) <= 24.0
    assert min(min(eight.call_gaps(name)) for name in eight.world.learners) >= 22
    pacing = [min(gaps) for gaps in zip(*(eight.call_gaps(n) for n in "abcdefgh"), strict=True)]
    assert min(pacing) >= 22, "a caller at 24 finds the others one or two reports behind"


def test_with_p_equal_to_h_one_fragment_is_called_per_step(eight: Run) -> None:
    times = [call.at_s for call in eight.calls if call.at_s > 30]
    assert (times[-1] - times[0]) / (len(times) - 1) == pytest.approx(23 / 24, abs=0.04)


def test_called_rounds_make_no_solo_merges_and_find_nearly_everybody(eight: Run) -> None:
    assert [each for each in eight.merges_since(30.0) if len(each.names) == 1] == []
    assert eight.participation(30.0) > 0.94, "tau = 3 covers the way there and back"


# ---------------------------------------------------------------- it closes


def test_all_called_are_in_and_the_round_closes_without_waiting() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.arrive("a")
    assert not of(shard.out, fx.Merge)
    shard.arrive("b")
    assert shard.merge_order().reason.code == "all_in"
    assert shard.merged_names() == ["a", "b"]


def test_quorum_waits_for_its_grace_and_merges_without_the_straggler() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.arrive("a")
    grace_s = shard.fragment().round.grace_s
    assert 0 < grace_s == 0.8 * (2 * 1.0 - 0.0)
    assert not of(shard.wait(grace_s - 0.01), fx.Merge)
    shard.wait(0.02)
    assert shard.merge_order().reason.code == "grace_over"
    assert shard.merged_names() == ["a"]


def test_grace_shrinks_by_what_merging_and_fetching_take() -> None:
    shard = HandShard("a", "b")
    shard.round("a", "b")
    for name in ("a", "b"):
        shard.beat(name, fetch_s=0.5)
    shard.core.state.merge_s = 0.25
    spent_s = shard.core.state.quorum_wait_s + 0.75
    shard.steps(4)
    assert shard.fragment().round.grace_s == pytest.approx(0.8 * (2.0 - spent_s))


def test_grace_is_over_at_once_when_there_is_no_slack() -> None:
    shard = HandShard("a", "b", tau=1)
    shard.core.state.merge_s = 5.0
    shard.steps(4)
    shard.arrive("a")
    assert shard.merge_order().reason.code == "grace_over"


def test_grace_ends_early_when_the_last_one_waited_for_goes_away() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.arrive("a")
    shard.lose("b")
    assert shard.merge_order().reason.code == "all_in"


def test_grace_ends_early_when_the_last_one_waited_for_says_that_it_is_busy() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.arrive("a")
    shard.beat("b", busy="saving")
    assert shard.merged_names() == ["a"]


def test_below_k_the_deadline_gives_the_round_up_and_merges_nothing() -> None:
    shard = HandShard("a", "b", K=2)
    shard.steps(4)
    shard.arrive("a")
    limit_s = shard.fragment().round.deadline_s - shard.now_s
    assert not of(shard.wait(limit_s - 0.01), fx.Merge)
    effects = shard.wait(0.02)
    assert codes(effects, fx.Note) == ["abandoned"]
    assert not of(effects, fx.Merge)
    assert shard.fragment().version == 0
    assert not of(effects, fx.Discard), "what was handed in is not lost"


def test_what_came_to_an_abandoned_round_stands_in_for_the_next() -> None:
    shard = HandShard("a", "b", K=2)
    shard.steps(4)
    early = shard.arrive("a")
    shard.close()
    shard.steps(4)
    assert shard.fragment().round is not None
    shard.arrive("b")
    assert not of(shard.out, fx.Merge), "one cut made for this round and an older one are not two"
    newer = shard.arrive("a")
    assert [part.cut.id for part in shard.merge_order().parts] == [newer.id, CutId("b", 2, 2)]
    assert [d.cut for d in said(shard.out, msg.Dropped)] in ([early.id], [])


def test_deadline_comes_from_measured_upload_times() -> None:
    shard = HandShard("a", "b", H=4, first_round_s=30.0, min_round_s=0.1)
    shard.steps(4)
    assert shard.fragment().round.deadline_s == pytest.approx(3.0 + 30.0)
    shard.now_s += 2.0
    shard.arrive("a")
    shard.arrive("b")
    shard.merge()
    measured_s = shard.core.state.seats["b"].arrive_s
    assert measured_s == pytest.approx(3.0)
    shard.steps(4)
    round = shard.fragment().round
    assert round.deadline_s - round.called_s == pytest.approx(2 * measured_s + 1.0)


def test_below_the_token_share_a_round_waits_longer_and_is_then_thin() -> None:
    shard = HandShard("a", "b", H=4, look_ahead=0)
    for _ in range(8):
        shard.report("b")
    shard.core.state.merge_s = 1.0  # so that grace and the longest grace differ
    shard.round("a", "b")
    for _ in range(12):
        shard.report("b")
    round = shard.fragment().round
    assert round is not None and round.grace_s < round.longest_grace_s == 0.8 * 2
    shard.report("a", 4)
    shard.arrive("a", call=round.number)
    assert not of(shard.out, fx.Merge)


def test_a_thin_round_is_counted_and_marked() -> None:
    shard = HandShard("a", "b", H=4, look_ahead=0, min_token_share=0.9)
    shard.steps(4)
    shard.arrive("a")
    longest_s = shard.fragment().round.longest_grace_s
    assert not of(shard.wait(longest_s - 0.01), fx.Merge)
    shard.wait(0.02)
    assert shard.merge_order().thin
    assert shard.merge_order().reason.code == "thin"
    shard.merge()
    assert (shard.core.state.tally.thin, shard.core.state.tally.solo) == (1, 1)


def test_below_k_learners_are_told_of_and_since_when_and_that_it_is_over() -> None:
    shard = HandShard("a", "b", K=2)
    shard.now_s = 50.0
    shard.lose("b")
    assert codes(shard.out, fx.Note) == ["quorum_lost"]
    assert shard.core.state.below_quorum_since_s == 50.0
    shard.steps(20, "a")
    assert not said(shard.out, msg.Call), "learners train on, nothing is merged"
    shard.back("b")
    assert codes(shard.out, fx.Note) == ["quorum_back"]
    assert "20.0 s" in of(shard.out, fx.Note)[0].reason.sentence


@pytest.mark.parametrize("how", ["leave", "left", "lost"])
def test_quorum_lost_by_somebody_who_is_over_is_told_as_well(how: str) -> None:
    shard = HandShard("a", "b", K=2)
    events = {
        "leave": msg.Leave("b", 2, "done"),
        "left": msg.Departed("b", 2, "left", left=True),
        "lost": msg.Departed("b", 2, "lost", left=False),
    }
    shard(events[how])
    assert codes(shard.out, fx.Note) == ["quorum_lost"]


def test_k_is_lowered_only_when_asked_for_and_then_it_is_said() -> None:
    shard = HandShard("a", "b", "c", K="all", on_quorum_loss="degrade")
    shard.lose("c")
    assert codes(shard.out, fx.Note) == ["quorum_lowered"]
    assert "2" in of(shard.out, fx.Note)[0].reason.sentence
    assert shard.round("a", "b").reason.code == "all_in"
    shard.back("c")
    assert codes(shard.out, fx.Note) == ["quorum_back"]
    for name in "abc":
        shard.lose(name)
    assert not said(shard.wait(100.0), msg.Call), "below one nothing can be lowered"


def test_a_busy_learner_that_is_back_in_time_is_called_again() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.beat("b", busy="evaluation")
    shard.report("b")
    assert sends(shard.out, msg.Call) == [(("b",), msg.Call(1, 0, 1, 2))]


def test_a_busy_learner_that_hands_in_all_the_same_is_merged() -> None:
    shard = HandShard("a", "b", "c")
    shard.steps(4)
    shard.beat("b", busy="evaluation")
    shard.arrive("b")
    shard.arrive("a")
    assert not of(shard.out, fx.Merge)
    shard.arrive("c")
    assert shard.merged_names() == ["a", "b", "c"]


# ---------------------------------------------------------------- tau


def test_tau_auto_takes_the_fewest_steps_that_cover_the_way_and_at_most_half_of_h() -> None:
    taus = {}
    for upload_s in (0.1, 1.0, 30.0):
        run = sail([1.0] * 2, Link(0.01, bulk_s=upload_s), P=2, H=24, tau="auto")
        run.go(200.0)
        taus[upload_s] = run["a"].core.state.tau
    assert taus == {0.1: 2, 1.0: 4, 30.0: 12}, "half a step to the boundary, then up and down"


# ---------------------------------------------------------------- H that grows


def test_while_h_grows_versions_are_installed_as_fast_as_they_come() -> None:
    held = {"P": 12, "H": 24, "first_H": 8, "growing_rounds": 10_000}
    run = sail([1.0] * 4, Link(0.01, bulk_s=0.1), **held)
    run.go(300.0)
    tally = run.world.shards[0].core.state.tally
    assert tally.learners_merged > 0.97 * tally.learners_live
    assert tally.merges > 400, "a fragment is merged every eight steps"
    for name in "abcd":
        holdings = run[name].core.state.holdings
        assert all(each.latest - each.base <= 1 for each in holdings), "nothing piles up"


def test_h_that_grows_is_no_shorter_than_twice_the_way_round() -> None:
    growing = {"P": 2, "H": 24, "first_H": 4, "growing_rounds": 10_000, "tau": "auto"}
    run = sail([1.0] * 4, Link(0.01, bulk_s=1.5), receipt="overwrite", **growing)
    run.go(400.0)
    shard = run.world.shards[0].core.state
    assert shard.tally.learners_merged > 0.9 * shard.tally.learners_live
    merged = shard.fragments[0].merged_tokens / sum(run[n].core.state.tokens for n in "abcd")
    assert merged > 0.5, "most of the work is done before a cut, not overwritten after it"


# ---------------------------------------------------------------- late cuts


def test_a_late_cut_opens_no_round_and_stands_in_the_next() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    late = shard.cut("b")
    shard.arrive("a")
    shard.close()
    shard.merge()
    shard(ev.Arrived(late))
    assert shard.out == [], "nothing is opened, nothing is told"
    assert shard.fragment().at_rest
    shard.steps(4, "a")
    shard.beat("b", busy="compiling")
    shard.arrive("a")
    order = shard.merge_order()
    assert [part.cut.id for part in order.parts if part.cut.id.learner == "b"] == [late.id]


def test_a_late_cut_does_not_make_a_quorum() -> None:
    shard = HandShard("a", "b", K=2)
    shard.steps(4)
    late = shard.cut("b")
    shard.arrive("a")
    shard.close()
    shard(ev.Arrived(late))
    shard.steps(4)
    shard.arrive("a")
    effects = shard.close()
    assert not of(effects, fx.Merge)
    assert "abandoned" in codes(effects, fx.Note)


def test_a_newer_cut_replaces_the_late_one_which_is_told() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    late = shard.cut("b")
    shard.arrive("a")
    shard.close()
    shard.merge()
    shard(ev.Arrived(late))
    shard.steps(4)
    newer = shard.arrive("b")
    shard.arrive("a")
    assert shard.merged_names() == ["a", "b"]
    assert [p.cut for p in shard.merge_order().parts][1] == newer
    assert [(d.cut, d.code) for d in said(shard.out, msg.Dropped)] in ([], [(late.id, "replaced")])
    assert late.id not in shard.fragment().fallback.values()
    assert shard.core.state.tally.dropped == {"replaced": 1}


def test_an_older_cut_that_overtakes_nobody_does_not_replace_a_newer_one() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    older = shard.cut("b")
    shard.arrive("a")
    shard.close()
    shard.merge()
    shard.steps(1)
    newer = shard.arrive("b")
    shard(ev.Arrived(older))
    assert shard.fragment().fallback == {"b": newer}
    assert [(d.cut, d.code) for d in said(shard.out, msg.Dropped)] == [(older.id, "replaced")]


def test_bytes_of_an_older_cut_are_let_go_when_its_round_is_given_up() -> None:
    shard = HandShard("a", "b", K=2)
    shard.steps(4)
    older = shard.cut("a")
    shard.steps(1)
    newer = shard.arrive("a")
    shard(ev.Arrived(older))
    effects = shard.out + shard.wait(60.0)
    assert shard.fragment().fallback == {"a": newer}
    assert [d.cut for d in of(effects, fx.Discard)] == [older.id]
    assert [(d.cut, d.code) for d in said(effects, msg.Dropped)] == [(older.id, "replaced")]


def test_the_last_cut_of_one_that_leaves_takes_the_place_of_its_cut_in_the_open_round() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    answer = shard.arrive("b")
    shard.report("b")
    last = shard.arrive("b", call=0)
    shard(msg.Leave("b", 2, "the loop is over"))
    shard.arrive("a")
    assert [part.cut for part in shard.merge_order().parts][1] == last
    assert shard.core.state.tally.dropped == {"replaced": 1}
    assert answer.id.number < last.id.number


def test_a_learner_missed_three_times_running_is_waited_for_once() -> None:
    shard = HandShard("a", "b", H=4)
    shard.round("a", "b")
    for _ in range(3):
        shard.steps(4)
        late = shard.cut("b")
        shard.arrive("a")
        shard.close()
        assert shard.merged_names()[0] == "a"
        assert late.id not in [part.cut.id for part in shard.merge_order().parts]
        shard.merge()
        shard(ev.Arrived(late))
    shard.core.state.seats["b"].arrive_s = 9.0
    shard.steps(4)
    round = shard.fragment().round
    assert list(round.patience) == ["b"]
    shard.arrive("a")
    assert not of(shard.wait(round.grace_s + 0.1), fx.Merge), "waited for beyond the grace"
    shard.arrive("b")
    assert shard.merged_names() == ["a", "b"]
    shard.merge()
    shard.steps(4)
    assert shard.fragment().round.patience == {}, "one round"


def test_patience_ends_at_the_learners_own_measured_upload_time() -> None:
    shard = HandShard("a", "b", H=4)
    shard.round("a", "b")
    seat = shard.core.state.seats["b"]
    seat.missed[0], seat.arrive_s = 3, 4.5
    shard.steps(4)
    round = shard.fragment().round
    assert round.patience["b"] - round.called_s == pytest.approx(1.25 * (4.5 + 1.0))
    shard.arrive("a")
    assert not of(shard.wait(round.patience["b"] - shard.now_s - 0.01), fx.Merge)
    shard.wait(0.02)
    assert shard.merged_names() == ["a"], "and not a moment longer"
    shard.merge()
    shard.steps(4)
    assert shard.fragment().round.patience == {}, "nor in the round after, though it did not come"


def test_two_misses_and_a_merge_begin_the_count_anew() -> None:
    shard = HandShard("a", "b", H=4)
    for names in (("a", "b"), ("a",), ("a",), ("a", "b"), ("a",)):
        shard.round(*names)
    assert shard.core.state.seats["b"].missed == [1]


def test_a_slow_link_has_two_uploads_queued_and_its_h_stretches() -> None:
    slow = Link(0.01, bulk_s=6.0)
    run = sail([1.0, 1.0], P=8, H=16)
    run["b"].island = replace(run["b"].island, link=slow)
    run.at_rest()
    most = 0
    for _ in range(600):
        run.go(1.0)
        most = max(most, len(run["b"].core.state.transfers))
    assert most == 2
    merges = run.merges_since(60.0)
    with_b = [each for each in merges if "b" in each.names]
    assert 0.25 < len(with_b) / len(merges) < 0.6, "two in seven seconds, of three that are called"
    steps = [each.steps["b"] for each in with_b]
    assert sum(steps) / len(steps) > 1.5 * 16, "it hands in longer cuts"
    assert run.fates("b")["merged"] > 0.75, "so most of its work is merged"
    assert run.fates("a")["merged"] > 0.93, "and it costs the others nothing"


def test_a_learner_a_little_too_late_every_time_loses_nothing() -> None:
    run = sail([1.0, 1.0], P=4, H=16)
    run["b"].island = replace(run["b"].island, link=Link(0.01, bulk_s=3.0))
    run.go(500.0)
    late = [each for each in run.merges_since(60.0) if "b" not in each.names]
    assert len(late) > 20, "every other round is missed"
    assert set(run.fates("b")) <= {"merged", "in_flight", "open"}
    assert run.fates("b")["merged"] > 0.9


def test_a_learner_serves_the_call_that_waits_longest_and_queues_two_uploads() -> None:
    learner = HandLearner(P=4, H=8)
    learner.steps(8)
    for fragment in (3, 1, 0):
        learner.now_s += 0.1
        learner.call(fragment)
    assert sorted(learner.cuts) == [1, 3]
    learner.boundary()
    assert not learner.cuts, "two are being uploaded"
    learner.now_s += 0.1
    learner.call(2)
    first = learner.core.state.transfers[0]
    uploaded = next(t for t in learner.core.state.transfers if t.fragment == first.fragment)
    learner(ev.Uploaded(CutId("a", 1, uploaded.number)))
    assert list(learner.cuts) == [0], "called before 2"


# ---------------------------------------------------------------- admissible


def deliver(shard: HandShard, name: str = "b", defect: str = "", **changes: object) -> list[str]:
    """A cut of b arrives; the codes with which it is dropped."""
    cut = replace(shard.cut(name), **changes)
    shard(ev.Arrived(cut, defect))
    return [dropped.code for dropped in said(shard.out, msg.Dropped)]


@pytest.mark.parametrize("defect", ["non_finite", "layout", "size", "checksum"])
def test_garbage_is_refused_with_a_reason_counted_and_told(defect: str) -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    assert deliver(shard, defect=defect) == [defect]
    assert shard.core.state.tally.refused == {defect: 1}
    assert len(of(shard.out, fx.Discard)) == 1
    shard.arrive("a")
    shard.wait(3.0)
    assert shard.merged_names() == ["a"]


def test_work_on_a_base_older_than_allowed_is_stale() -> None:
    shard = HandShard("a", "b", max_staleness=1, max_age_steps=100)
    shard.round("a")
    shard.round("a")
    shard.steps(4)
    assert deliver(shard, base=0) == ["stale"]
    assert deliver(shard, base=1) == []


def test_work_is_not_merged_twice_by_an_old_base() -> None:
    shard = HandShard("a", "b")
    shard.round("a", "b")
    shard.steps(4)
    assert shard.cut("b").base == 1
    deliver(shard, base=0)
    assert shard.fragment().round.arrived == {}
    assert shard.core.state.tally.refused == {"counted": 1}


def test_a_stale_contribution_is_added_as_sent_and_may_be_scaled() -> None:
    for scale_stale, scale in ((False, 1.0), (True, 0.5)):
        shard = HandShard("a", "b", scale_stale=scale_stale)
        shard.steps(4)
        held = shard.cut("b")
        shard.arrive("a")
        shard.close()
        shard.merge()
        shard(ev.Arrived(held))
        shard.steps(4)
        shard.beat("b", busy="saving")
        shard.arrive("a")
        parts = {part.cut.id.learner: part for part in shard.merge_order().parts}
        assert (parts["a"].scale, parts["b"].scale) == (1.0, scale)


@pytest.mark.parametrize(("unmerged", "scale"), [("carry", 1.0), ("drop", 0.5)])
def test_work_of_more_than_h_steps_weighs_h_steps(unmerged: str, scale: float) -> None:
    shard = HandShard("a", "b", H=4, look_ahead=0, unmerged=unmerged)
    shard.round("a")
    shard.steps(4)
    shard.arrive("b", first_token=0, steps=8)
    shard.arrive("a")
    parts = {part.cut.id.learner: part for part in shard.merge_order().parts}
    assert (parts["a"].scale, parts["b"].scale) == (1.0, scale)
    assert parts["a"].weight == parts["b"].weight == 400 * 100


@pytest.mark.parametrize(("unmerged", "scale"), [("carry", 2 / 3), ("drop", 1.0)])
def test_a_merge_without_a_live_learner_leaves_room_for_its_work(
    unmerged: str, scale: float
) -> None:
    shard = HandShard("a", "b", "c", unmerged=unmerged)
    shard.steps(4)
    shard.arrive("a")
    shard.arrive("b")
    shard.close()
    assert [part.scale for part in shard.merge_order().parts] == [scale, scale]


def test_a_contribution_that_spoils_a_merge_leaves_room_for_its_work() -> None:
    shard = HandShard("a", "b", "c", "d")
    shard.steps(4)
    bad = [shard.arrive(name) for name in "abc"][1]
    shard.close()
    assert [part.scale for part in shard.merge_order().parts] == [0.75] * 3
    shard(ev.MergeFailed(0, 1, "non_finite", "inf in block 3", (bad.id,)))
    assert [part.scale for part in shard.merge_order().parts] == [0.5, 0.5]


def test_a_merge_names_who_and_which_cuts_in_order_of_name() -> None:
    shard = HandShard("c", "a", "b")
    order = shard.round("b", "c", "a")
    assert [mark.learner for mark in order.marks] == ["a", "b", "c"]
    assert [mark.version for mark in order.marks] == [1, 1, 1]
    assert order.merged_tokens == 3 * 400 == sum(p.cut.tokens for p in order.parts)
    assert {name: end for name, _, end in order.through} == dict.fromkeys("abc", 400)


def test_marks_are_cumulative_so_that_one_that_missed_versions_learns_its_fate() -> None:
    shard = HandShard("a", "b")
    shard.round("a", "b")
    shard.round("a")
    (published,) = list(said(shard.out, msg.Published)) or said(
        shard.beat("b", held=(0,)), msg.Published
    )
    assert {mark.learner: mark.version for mark in published.merged_by} == {"a": 2, "b": 1}


# ---------------------------------------------------------------- durable before visible


def test_a_version_is_published_only_when_its_merge_is_durable() -> None:
    shard = HandShard("a")
    shard.steps(4)
    shard.arrive("a")
    assert not said(shard.out, msg.Published)
    assert not said(shard.beat("a", held=(0,)), msg.Published)
    (published,) = said(shard.merge(), msg.Published)
    assert published.version == 1


def test_a_merge_that_fails_is_tried_again_later_and_later_and_nothing_is_lost() -> None:
    shard = HandShard("a", H=4, retry_s=1.0)
    shard.steps(4)
    shard.arrive("a")
    order, pauses = shard.merge_order(), []
    for _ in range(8):
        shard(ev.MergeFailed(0, 1, "disk_full", "no space left"))
        assert "no space left" in of(shard.out, fx.Note)[0].reason.sentence
        pauses.append(shard.core.next_deadline_s() - shard.now_s)
        shard.now_s = shard.core.next_deadline_s()
        shard(ev.Tick())
        assert of(shard.out, fx.Merge) == [order]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    shard.merge()
    assert shard.fragment().version == 1


def test_a_contribution_that_spoils_a_merge_is_dropped_and_the_rest_is_merged() -> None:
    shard = HandShard("a", "b", "c")
    shard.steps(4)
    bad = [shard.arrive(name) for name in "abc"][1]
    shard(ev.MergeFailed(0, 1, "non_finite", "inf in block 3", (bad.id,)))
    assert shard.merged_names() == ["a", "c"]
    assert [d.cut for d in said(shard.out, msg.Dropped)] == [bad.id]
    assert shard.core.state.tally.refused == {"non_finite": 1}


def test_a_spoiled_merge_below_k_waits_for_the_next_round() -> None:
    shard = HandShard("a", "b", K=2)
    shard.steps(4)
    shard.arrive("a")
    bad = shard.arrive("b")
    shard(ev.MergeFailed(0, 1, "non_finite", "inf", (bad.id,)))
    assert not of(shard.out, fx.Merge)
    assert list(shard.fragment().fallback) == ["a"]
    assert shard.fragment().at_rest


def test_a_learner_that_returns_joins_a_round_that_lacks_its_quorum() -> None:
    """The only one that was called may be stuck, and a round stays open for long."""
    shard = HandShard("a", "b", H=4)
    shard.round("a", "b")
    shard.lose("b")
    shard.steps(4)
    assert list(shard.fragment().round.expected) == ["a"], "called while it was the only one"
    shard.step["b"] += 4
    calls = sends(shard.back("b"), msg.Call)
    assert [to for to, _ in calls] == [("b",)]
    shard.report("b")
    shard.arrive("b")
    shard.close()
    assert shard.merged_names() == ["b"]


def test_a_learner_that_returns_does_not_hold_up_a_round_that_has_its_quorum() -> None:
    shard = HandShard("a", "b", "c", H=4)
    shard.round("a", "b", "c")
    shard.lose("c")
    shard.steps(4)
    shard.arrive("a")
    assert not sends(shard.back("c"), msg.Call)
    assert "c" not in shard.fragment().round.expected
