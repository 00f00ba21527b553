"""Failures, and what each may cost, row by row of docs/failures.md, in virtual time.

Processes, disks and links fail in their virtual form; the checkers of the simulator watch all
along that no merge is lost, none counted twice and nothing is visible before it is durable.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from pair import FAST, ROUGH, Run, of, sail

QUIET = {"merged", "in_flight", "open"}
"""Fates of a learner that lost nothing."""


def began(run: Run) -> Run:
    """The run is under way: everybody has done 40 steps."""
    run.steps(40)
    return run


def versions(run: Run) -> dict[int, int]:
    return dict(run.world.watch.versions)


def gained(run: Run, before: dict[int, int]) -> int:
    """Versions that every fragment has gained."""
    return min(version - before[fragment] for fragment, version in versions(run).items())


# ---------------------------------------------------------------- a learner dies, and returns


def test_a_learner_dies_and_the_others_go_on_without_waiting_for_it() -> None:
    run = began(sail([1.0, 1.0, 1.0]))
    before, at_s = versions(run), run.now_s
    run["c"].kill()
    run.go(60.0)
    assert gained(run, before) >= 60 // 12
    later = run.merges_since(at_s + 13.0)
    assert {each.names for each in later} == {("a", "b")}, "its weight is 0"
    assert {each.code for each in later} == {"all_in"}, "and nobody waits for it"


def test_a_learner_that_dies_loses_its_steps_since_its_last_merged_cut_and_no_more() -> None:
    run = began(sail([1.0, 1.0]))
    merged = {p: run.shard.state.seats["b"].through[p] for p in range(3)}
    trained = run["b"].tokens
    run["b"].kill()
    run.go(30.0)
    assert all(trained - through <= (12 + 3) * 100 for through in merged.values())
    settled = run.shard.state.fragments[0].marks["b"]
    assert settled.incarnation == 2, "what was merged of it stays merged"


def test_a_learner_returns_with_current_fragments_and_the_runs_progress() -> None:
    run = began(sail([1.0, 1.0], run={"budget_tokens": 50_000}))
    progress = run["b"].core.progress()
    run["b"].kill()
    run.go(60.0)
    run["b"].start()
    run.until(lambda: run["b"].core.state.phase == "training", 20.0)
    held = {holding.number: holding.base for holding in run["b"].core.state.holdings}
    assert all(versions(run)[p] - held[p] <= 1 for p in held)
    run.go(5.0)
    assert run["b"].core.progress() > progress + 60 * 100 / 50_000 - 0.05
    before = len(run.rounds)
    run.until(lambda: any("b" in each.names for each in run.rounds[before:]), 30.0)


def test_nobody_stands_in_the_way_of_a_returning_learner_though_its_old_session_stands() -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 10_000.0}))
    run["b"].kill()
    run["b"].start()
    run.until(lambda: run["b"].core.state.phase == "training", 20.0)
    assert run["b"].core.state.incarnation == 3


# ---------------------------------------------------------------- a learner stalls


def test_a_learner_that_stalls_is_left_out_of_this_round_and_merged_in_the_next() -> None:
    run = began(sail([1.0, 1.0], P=1, H=12))
    call = len(run.calls)
    run.until(lambda: len(run.calls) > call, 30.0)
    run["b"].stall(8.0)
    at_s = run.now_s
    run.go(60.0)
    first, second = run.merges_since(at_s)[:2]
    assert (first.names, second.names) == (("a",), ("a", "b"))
    assert 12 < second.steps["b"] > first.steps["a"], "with the steps of both"
    assert set(run.fates("b")) <= QUIET


def test_under_drop_a_stalled_learner_loses_its_work_since_its_last_merged_cut() -> None:
    run = began(sail([1.0, 1.0], P=1, H=12, unmerged="drop"))
    call = len(run.calls)
    run.until(lambda: len(run.calls) > call, 30.0)
    run["b"].stall(8.0)
    run.go(60.0)
    lost = run["b"].core.state.holdings[0].ledger.dropped
    assert sum(lost.values()) <= (12 + 2) * 100, lost
    assert "a" in run.rounds[-1].names and "b" in run.rounds[-1].names


def test_a_frozen_process_that_wakes_up_is_caught_up_and_merged_again() -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 500.0}))
    run["b"].freeze(40.0)
    run.go(39.0)
    assert run.shard.state.roster.members["b"].state == "away", "silent for too long"
    run.go(60.0)
    assert run.fates("b")["merged"] > 0.6
    assert "b" in run.rounds[-1].names


# ---------------------------------------------------------------- the link is cut


@pytest.mark.parametrize(("apart_s", "lost"), [(15.0, False), (80.0, True)])
def test_a_link_is_cut_and_the_learner_trains_on_and_catches_up(apart_s: float, lost: bool) -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 500.0}))
    step = run["b"].step
    run["b"].cut_link()
    run.go(apart_s)
    assert run["b"].step - step >= apart_s - 2, "it never waits"
    run["b"].mend_link()
    run.go(60.0)
    assert "b" in run.rounds[-1].names
    assert ("too_old" in run.fates("b")) == lost, "only beyond max_age_steps"


def test_over_a_rough_link_everything_is_merged_in_the_end() -> None:
    run = sail([1.0, 1.0, 1.3], link=ROUGH, H=8, P=4)
    run.go(400.0)
    for name in "abc":
        fates = run.fates(name)
        assert fates["merged"] > 0.8
        assert "died" not in fates
    assert run.participation(30.0) > 0.6


# ---------------------------------------------------------------- the syncer, or a part of it


def test_the_syncer_dies_and_no_merge_that_was_seen_is_lost() -> None:
    run = began(sail([1.0, 1.0], run={"num_shards": 2}))
    before, steps = versions(run), run["a"].step
    lives = {name: run[name].core.state.incarnation for name in "ab"}
    run.world.kill_syncer()
    run.go(20.0)
    assert run["a"].step >= steps + 19, "learners train on"
    assert versions(run) == before
    run.world.start_syncer()  # the checkers compare versions and digests
    run.go(60.0)
    assert gained(run, before) >= 3
    assert {name: run[name].core.state.incarnation for name in "ab"} == lives, "sessions go on"
    for name in "ab":
        assert set(run.fates(name)) <= QUIET, "20 steps alone cost nothing"


@pytest.mark.parametrize("delay_s", [0.0, 0.011, 0.3, 1.7, 4.2])
def test_the_syncer_dies_at_any_moment_of_a_round(delay_s: float) -> None:
    run = began(sail([1.0, 1.0]))
    call = len(run.calls)
    run.until(lambda: len(run.calls) > call, 30.0)
    run.go(delay_s)
    run.world.kill_syncer()
    before = versions(run)
    run.world.start_syncer()
    run.go(60.0)
    assert gained(run, before) >= 3
    for name in "ab":
        assert set(run.fates(name)) <= QUIET


def test_the_coordinator_dies_alone_and_merging_goes_on() -> None:
    run = began(sail([1.0, 1.0, 1.0], run={"num_shards": 2}))
    run["c"].kill()
    run.world.coordinator.kill()
    before = versions(run)
    run["c"].start()
    run.go(60.0)
    assert gained(run, before) >= 3
    assert run["c"].core.state.phase == "joining", "nobody joins"
    run.world.start_syncer()
    run.go(30.0)
    assert run["c"].core.state.phase == "training"
    assert run.participation(run.now_s - 15.0) > 0.8


def test_leases_stand_while_the_coordinator_is_down() -> None:
    run = sail([1.0, 1.0], run={"dataset_items": 100_000, "lease_items": 10})
    run.at_rest()
    run["a"].tell(ev.DataLow(2))
    run.go(10.0)
    waiting = [each.number for each in run.world.coordinator.core.state.leases.waiting(1)]
    run.world.coordinator.kill()
    run.go(10.0)
    run.world.start_syncer()
    run.go(10.0)
    book = run.world.coordinator.core.state.leases
    assert len(waiting) == 2
    assert book.returned == [], "nothing is taken from anybody"
    assert all(number not in book.held or book.held[number].incarnation == 1 for number in waiting)


def test_a_shard_dies_alone_and_the_other_goes_on() -> None:
    run = began(sail([1.0, 1.0], P=4, H=12, run={"num_shards": 2}))
    before = versions(run)
    run.world.shards[1].kill()
    run.go(60.0)
    after = versions(run)
    assert min(after[p] - before[p] for p in (0, 2)) >= 3
    assert [after[p] - before[p] for p in (1, 3)] == [0, 0]
    run.world.start_syncer()
    run.go(60.0)
    assert min(versions(run)[p] - after[p] for p in range(4)) >= 3


# ---------------------------------------------------------------- disks, and an old syncer


def test_a_full_disk_keeps_the_last_version_and_says_so_until_there_is_room() -> None:
    run = began(sail([1.0, 1.0]))
    run.world.shards[0].disk_full = True
    run.go(20.0)
    before = versions(run)
    run.go(40.0)
    assert versions(run) == before
    said = [text for _, code, text in run.notes if code == "disk_full"]
    assert len(said) > 3 and "again in" in said[-1]
    run.world.shards[0].disk_full = False
    run.go(120.0)
    assert gained(run, before) >= 3
    assert run["a"].step > 180, "nobody waited"


def test_a_merge_lost_with_a_full_disk_and_a_dying_syncer_was_seen_by_nobody() -> None:
    run = began(sail([1.0, 1.0]))
    run.world.shards[0].disk_full = True
    run.go(20.0)
    before = versions(run)
    run.world.kill_syncer()
    run.world.shards[0].disk_full = False
    run.world.start_syncer()
    assert versions(run) == before
    run.go(60.0)
    assert gained(run, before) >= 2


def test_an_old_syncer_that_wakes_up_is_heeded_by_nobody() -> None:
    run = began(sail([1.0, 1.0]))
    stale_call = msg.Call(1, 0, 1 << 30, 2)
    stale_version = msg.Published(1, 0, 99, "old", ())
    run.world.kill_syncer()
    run.world.start_syncer()
    run.go(20.0)
    learner = run["a"].core
    before = learner.snapshot()
    for message in (stale_call, stale_version, msg.Ended(1, "says the old one")):
        (effect,) = of(learner.handle(run.now_s, message), fx.Refuse)
        assert effect.reason.code == "old_epoch"
    learner.state.now_s = before.now_s
    assert learner.state == before


# ---------------------------------------------------------------- garbage, and nobody there


@pytest.mark.parametrize("defect", ["non_finite", "checksum", "size"])
def test_garbage_costs_that_contribution_and_the_learner_is_told(defect: str) -> None:
    run = began(sail([1.0, 1.0]))
    run["b"].corrupt_next = defect
    run.go(60.0)
    assert run.shard.state.tally.refused == {defect: 1}
    assert run.dropped.count(("b", defect)) == 1
    notes = [text for _, code, text in run.notes if code == defect]
    assert len(notes) == 1 and "was not merged" in notes[0]
    assert set(run.fates("b")) <= QUIET, "under carry its work is in the next cut"


def test_all_learners_are_gone_and_the_syncer_waits_with_the_state_safe() -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 20.0}))
    for name in "ab":
        run[name].kill()
    run.go(5.0)
    before = versions(run)
    run.go(100_000.0)
    assert versions(run) == before
    assert run.world.coordinator.core.status()["registered"] == 0
    assert "0 of the 1 learners" in run.world.coordinator.core.status()["waiting"]
    assert run.shard.state.below_quorum_since_s > 0
    run["a"].start()
    run.go(60.0)
    assert gained(run, before) >= 2


def test_a_learner_alone_for_an_hour_costs_the_others_nothing() -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 10_000.0}, P=1, H=24))
    run["b"].cut_link()
    since_s = run.now_s
    run.go(3600.0)
    assert run.effective_h("a", since_s) == pytest.approx(24.0, abs=0.1)
    run["b"].mend_link()
    run.go(100.0)
    fates = run["b"].core.state.holdings[0].ledger.dropped
    assert fates["too_old"] == pytest.approx(3600 * 100, rel=0.03), "beyond max_age_steps"
    assert "b" in run.rounds[-1].names


def test_a_learner_alone_for_an_hour_under_k_all_stops_the_merging_not_the_training() -> None:
    run = began(sail([1.0, 1.0], run={"lease_s": 10_000.0}, P=1, H=24, K="all"))
    run["b"].cut_link()
    run.go(1.0)
    since_s, before = run.now_s, versions(run)
    run.go(3600.0)
    assert run.merges_since(since_s) == []
    assert run["a"].step > 3600
    lost = [text for _, code, text in run.notes if code == "quorum_lost"]
    assert "1 learners are live, a round needs 2" in lost[-1], "not silently"
    run["b"].mend_link()
    run.go(60.0)
    first = run.merges_since(since_s)[0]
    assert first.names == ("a", "b")
    assert min(first.steps.values()) > 3600, "all of it is merged, scaled to H steps"
    assert gained(run, before) >= 1
    for name in "ab":
        assert set(run.fates(name)) <= QUIET


def test_islands_with_different_links_share_a_run() -> None:
    run = sail([1.0, 1.0, 1.0], H=24, P=6)
    run["b"].island = replace(run["b"].island, link=ROUGH)
    run["c"].island = replace(run["c"].island, link=replace(FAST, bulk_s=1.5))
    run.go(300.0)
    for name in "abc":
        assert run.fates(name)["merged"] > 0.85
