"""Who takes part, from version 0 to the end: learners, shards and coordinator together.

Rules of "Version 0", "Membership", "Progress and end", "Data", "Durable", "Shards". What
the coordinator decides alone is in test_coordinator.py. The table from sentences to tests is in
README.md beside this file.
"""

from __future__ import annotations

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import CutId
from atoll.core.learner import LearnerCore
from atoll.core.shard import ShardCore
from pair import HandLearner, HandShard, Run, codes, of, refused, said, sail, sends

# ---------------------------------------------------------------- version 0


def trained(run: Run) -> dict[str, int]:
    """Steps by learner."""
    return {name: node.step for name, node in run.world.learners.items()}


def test_nobody_trains_before_version_0_of_every_fragment_is_durable() -> None:
    run = sail([1.0, 1.0, 1.0], P=6, run={"num_shards": 3, "initialise_s": 20.0})
    run.world.shards[1].kill()  # one shard is late
    run.go(60.0)
    assert trained(run) == {"a": 0, "b": 0, "c": 0}
    assert run.world.coordinator.core.state.phase == "initialising"
    run.world.start_syncer()
    run.go(60.0)
    assert min(trained(run).values()) > 0
    assert set(run.world.watch.versions) == set(range(6))


def test_one_learner_is_named_initialiser_and_the_next_when_it_dies() -> None:
    run = sail([1.0, 1.0, 1.0], run={"initialise_s": 20.0, "lease_s": 30.0})
    run.until(lambda: run.world.coordinator.core.state.initialiser == "a")
    run["a"].kill()
    run.go(90.0)
    named = [text for _, code, text in run.notes if code == "initialiser"]
    assert named[0].startswith("a ") and named[1].startswith("b ")
    assert trained(run)["b"] > 0


def test_a_silent_initialiser_is_given_a_deadline() -> None:
    run = sail([1.0, 1.0], run={"initialise_s": 20.0, "lease_s": 500.0})
    run.until(lambda: run.world.coordinator.core.state.initialiser == "a")
    run["a"].freeze(300.0)
    run.go(60.0)
    assert "initialiser_late" in [code for _, code, _ in run.notes]
    assert trained(run) == {"a": 0, "b": pytest.approx(trained(run)["b"])}
    assert trained(run)["b"] > 20


def test_with_a_file_nobody_is_named_and_learners_begin_when_it_is_read() -> None:
    run = sail([1.0, 1.0], run={"initial": "file"})
    run.go(20.0)
    assert trained(run) == {"a": 0, "b": 0}
    for fragment in range(3):
        run.world.tell_party("shard-0", ev.InitialStored(fragment, f"{fragment}:0"))
    run.go(20.0)
    assert "initialiser" not in [code for _, code, _ in run.notes]
    assert min(trained(run).values()) > 10


def test_a_fresh_process_does_not_overwrite_a_model_that_is_there() -> None:
    shard = HandShard("a")
    shard.round("a")
    shard(ev.InitialStored(0, "random weights"))
    assert shard.fragment().digest == "1"
    assert not said(shard.out, msg.Published)
    assert len(said(shard.out, msg.FragmentReady)) == 1


# ---------------------------------------------------------------- live, busy, away, gone


def test_a_learner_that_evaluates_is_not_called_not_waited_for_and_keeps_everything() -> None:
    run = sail([1.0, 1.0], K=1)
    run.steps(30)
    merged = run["b"].core.state.holdings[0].ledger.merged
    run["b"].tell(ev.BusySince("evaluation"))
    run["b"].stall(60.0)
    since_s = run.now_s + 2.0
    run.go(60.0)
    calls = [call for call in run.calls if call.at_s > since_s]
    assert calls and all(call.names == ("a",) for call in calls)
    assert {r.code for r in run.merges_since(since_s)} == {"all_in"}
    run["b"].tell(ev.BusyOver())
    run.go(40.0)
    assert run["b"].core.state.incarnation == 2, "the same life"
    assert run["b"].core.state.holdings[0].ledger.merged > merged
    assert "died" not in run.fates("b")


def test_a_learner_without_steps_is_busy_though_nobody_said_so() -> None:
    run = sail([1.0, 1.0])
    run.steps(20)
    run["b"].stall(30.0)
    run.go(6.0)
    assert run.shard.state.roster.members["b"].state == "busy"
    assert run.world.coordinator.core.status()["busy"] == 1
    run.go(30.0)
    assert run.shard.state.roster.members["b"].state == "live"


@pytest.mark.parametrize("apart_s", [20.0, 60.0])
def test_a_cut_link_is_away_and_the_session_goes_on_when_it_is_mended(apart_s: float) -> None:
    run = sail([1.0, 1.0], run={"lease_s": 100.0})
    run.steps(30)
    before = run["b"].core.state.incarnation
    run["b"].cut_link()
    run.go(apart_s)
    assert run.world.coordinator.core.status()["away"] == 1
    assert run["b"].step > 25 + apart_s, "it trains on"
    run["b"].mend_link()
    run.go(40.0)
    assert run.world.coordinator.core.status()["live"] == 2
    assert run["b"].core.state.incarnation == before
    fates = run.fates("b")
    assert "died" not in fates
    if apart_s <= 2 * 12:
        assert set(fates) <= {"merged", "in_flight", "open"}, "two H of its own work are merged"
    else:
        assert 0.3 < fates["too_old"] < 0.6, "more, on a base left behind, is too old"


def test_away_for_longer_than_the_lease_is_gone_and_the_learner_comes_back_as_a_new_life() -> None:
    run = sail([1.0, 1.0], run={"lease_s": 20.0})
    run.steps(30)
    before = run["b"].core.state.incarnation
    run["b"].cut_link()
    run.go(40.0)
    assert run.world.coordinator.core.status()["registered"] == 1
    assert "b" not in run.shard.state.seats
    run["b"].mend_link()
    run.go(40.0)
    assert run["b"].core.state.incarnation > before
    assert run["b"].core.state.phase == "training"
    run.go(60.0)
    assert run.fates("b")["merged"] > 0.5


def test_a_silent_learner_is_away_and_any_word_brings_it_back() -> None:
    shard = HandShard("a", "b", silence_s=10.0, beat_s=2.0)
    shard.wait(9.0)
    shard.beat("a")
    assert shard.core.state.roster.members["b"].state == "live"
    shard.wait(2.0)
    assert shard.core.state.roster.members["b"].state == "away"
    assert shard.core.state.roster.members["a"].state == "live"
    shard(msg.Announce(shard.cut("b", end_token=100, steps=1, at_step=1)))
    shard.report("b")
    assert shard.core.state.roster.members["b"].state == "live"


# ---------------------------------------------------------------- incarnations


def test_a_newer_process_wins_and_the_replaced_one_stays_out() -> None:
    run = sail([1.0, 1.0])
    run.steps(20)
    old = run["b"].core
    run["b"].kill()
    run["b"].start()  # a new process under the same name, while the old session still stands
    run.go(30.0)
    assert run["b"].core.state.incarnation == 3
    assert run["b"].core.state.phase == "training"
    effects = old.handle(run.now_s, msg.Replaced(1, 3))
    assert [(over.failed, over.reason.code) for over in of(effects, fx.Over)] == [
        (True, "replaced")
    ]
    assert old.next_deadline_s() == float("inf"), "it does not come back by itself"


def test_work_of_an_earlier_life_is_void_when_a_newer_one_is_admitted() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    old = shard.arrive("b")
    late = shard.cut("b")
    shard.join("b", life=3)
    assert old.id in [discard.cut for discard in of(shard.out, fx.Discard)] or (
        shard.core.state.tally.dropped == {"replaced": 1}
    )
    shard(ev.Arrived(late))
    assert codes(shard.out, fx.Discard) == ["stale_incarnation"]
    shard.arrive("a")
    shard.close()
    assert shard.merged_names() == ["a"]


def test_admissions_and_departures_may_come_late_twice_and_in_any_order() -> None:
    shard = HandShard("a")
    shard(msg.Admitted("b", 5))
    shard(msg.Admitted("b", 4))
    shard(msg.Departed("b", 4, "lost", left=False))
    assert shard.core.state.seats["b"].incarnation == 5
    shard(msg.Departed("b", 5, "lost", left=False))
    shard(msg.Departed("b", 5, "lost", left=False))
    shard(msg.Admitted("b", 5))
    assert "b" not in shard.core.state.seats, "a life that is over does not begin again"
    shard(msg.Admitted("b", 6))
    assert shard.core.state.seats["b"].incarnation == 6


def test_a_learner_that_connects_before_it_is_admitted_is_live_once_it_is() -> None:
    shard = HandShard("a")
    assert shard(ev.Connected("b", 2)) == []
    shard(msg.Admitted("b", 2))
    assert shard.core.state.roster.members["b"].state == "live"
    assert sends(shard.out, msg.Published)[0][0] == ("b",)


def test_what_a_leaver_handed_in_is_merged_and_what_a_lost_one_did_is_not() -> None:
    for left in (True, False):
        shard = HandShard("a", "b")
        shard.steps(4)
        shard.arrive("b")
        shard(msg.Departed("b", 2, "left" if left else "lost", left=left))
        shard.arrive("a")
        shard.close()
        assert shard.merged_names() == (["a", "b"] if left else ["a"])


def test_islands_under_ever_new_names_leave_nothing_behind_in_a_shard() -> None:
    shard = HandShard("a")
    for number in range(10, 40):
        name, left = f"spot-{number}", number % 2 == 0
        shard.join(name, number)
        shard.round("a", name)
        assert name in shard.fragment().marks
        shard.apart[name] = True
        shard(msg.Departed(name, number, "left" if left else "lost", left=left))
    shard.round("a")
    assert sorted(shard.core.state.seats) == ["a"]
    assert sorted(shard.fragment().marks) == ["a"]


def test_what_a_leaver_handed_in_keeps_its_seat_until_it_is_merged() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    shard.arrive("b")
    shard(msg.Departed("b", 2, "left", left=True))
    assert "b" in shard.core.state.seats
    shard.arrive("a")
    shard.close()
    assert shard.merged_names() == ["a", "b"]
    shard.merge()
    assert "b" not in shard.core.state.seats


# ---------------------------------------------------------------- the end


def test_at_the_budget_every_fragment_has_one_last_round_and_the_run_ends() -> None:
    run = sail([1.0, 1.0], P=4, run={"budget_tokens": 10_000, "num_shards": 2})
    run.until(lambda: run.world.coordinator.core.state.phase == "finishing", 200.0)
    before, at_s = dict(run.world.watch.versions), run.now_s
    run.until(lambda: run.world.coordinator.core.state.phase == "ended", 120.0)
    rounds = [run.world.watch.versions[p] - before[p] for p in range(4)]
    assert rounds in ([1] * 4, [2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1], [1, 1, 1, 2])
    assert run.world.coordinator.core.state.finals == run.world.watch.versions
    assert {node.over_code for node in run.world.learners.values()} == {"ended"} or (
        run.go(20.0) and {n.over_code for n in run.world.learners.values()} == {"ended"}
    )
    status = run.world.coordinator.core.status()
    assert 10_000 <= status["trained"] < 10_000 + 200 * (run.now_s - at_s + 2)
    assert status["merged"] > 0.93 * status["trained"]


def test_the_last_rounds_have_a_deadline_so_a_dead_learner_does_not_hold_up_the_end() -> None:
    run = sail([1.0, 1.0], K=2, run={"budget_tokens": 10_000, "last_round_s": 30.0})
    run.until(lambda: run.world.coordinator.core.state.phase == "finishing", 200.0)
    run["b"].freeze(10_000.0)
    run.until(lambda: run.world.coordinator.core.state.phase == "ended", 60.0)


def test_a_round_that_is_open_at_the_budget_is_the_last_one() -> None:
    shard = HandShard("a")
    shard.steps(4)
    shard(msg.Finish(30.0))
    assert not said(shard.out, msg.Call)
    shard.arrive("a")
    assert said(shard.merge(), msg.FragmentFinal) == [msg.FragmentFinal(0, 1)]
    assert not said(shard.steps(8), msg.Call)


def test_a_merge_under_way_at_the_budget_is_followed_by_one_last_round() -> None:
    shard = HandShard("a")
    shard.steps(4)
    shard.arrive("a")
    shard(msg.Finish(30.0))
    assert len(said(shard.merge(), msg.Call)) == 1, "without waiting for H steps"
    shard.report("a")
    shard.arrive("a")
    assert said(shard.merge(), msg.FragmentFinal) == [msg.FragmentFinal(0, 2)]


def test_a_fragment_at_rest_with_nobody_there_is_final_at_once() -> None:
    shard = HandShard("a")
    shard.round("a")
    shard.lose("a")
    assert said(shard(msg.Finish(30.0)), msg.FragmentFinal) == [msg.FragmentFinal(0, 1)]
    assert said(shard(msg.Finish(30.0)), msg.FragmentFinal), "said again when asked again"


def test_progress_is_monotone_counts_own_steps_and_stops_at_one() -> None:
    learner = HandLearner()
    seen = [learner.core.progress()]
    learner(msg.Progress(1, 1000, 0, 10_000))
    for _ in range(20):
        learner.steps(2)
        seen.append(learner.core.progress())
    learner(msg.Progress(1, 500, 0, 10_000))  # an old one, overtaken
    learner(msg.Progress(1, 6000, 4000, 10_000))  # all own steps so far are in these
    assert learner.core.progress() == 0.6
    learner.steps(1)
    assert learner.core.progress() == 0.61
    seen.append(learner.core.progress())
    assert seen[:3] == [0.0, 0.12, 0.14]
    assert seen == sorted(seen)
    learner(msg.Welcome(1, "a", 7, False, 1, True, "process-1"))
    assert learner.core.progress() == seen[-1], "a new life begins where the old one was"
    learner(msg.Progress(1, 20_000, 0, 10_000))
    assert learner.core.progress() == 1.0


def test_progress_does_not_restart_with_a_new_life_or_a_restarted_coordinator() -> None:
    run = sail([1.0, 1.0], run={"budget_tokens": 100_000, "lease_s": 10.0})
    run.steps(100)
    seen = [run["b"].core.progress()]
    run["b"].cut_link()
    run.go(30.0)
    run["b"].mend_link()
    run.world.coordinator.kill()
    run.go(3.0)
    run.world.start_syncer()
    for _ in range(30):
        run.go(2.0)
        seen.append(run["b"].core.progress())
    assert run["b"].core.state.incarnation > 2
    assert seen == sorted(seen) and 0.15 < seen[0] < seen[-1] <= 1.0


def test_trained_tokens_of_the_run_count_every_life_once() -> None:
    run = sail([1.0, 1.0], run={"lease_s": 10.0})
    run.steps(30)
    run["b"].kill()
    first_life = run["b"].tokens
    run.go(20.0)
    run["b"].start()
    run.go(60.0)
    run["a"].stall(1e6)
    run["b"].stall(1e6)
    run.go(5.0)
    total = run["a"].tokens + first_life + run["b"].tokens
    assert run.world.coordinator.core.status()["trained"] == total


# ---------------------------------------------------------------- data


def test_leases_of_a_dead_learner_return_and_repeats_are_counted() -> None:
    data = {"dataset_items": 100_000, "lease_items": 10, "lease_s": 20.0}
    run = sail([1.0, 1.0], run=data)
    run.at_rest()
    for name in ("a", "b"):
        run[name].tell(ev.DataLow(2))
    run.go(30.0)
    run["b"].kill()
    run.go(1.0)
    book = run.world.coordinator.core.state.leases
    dead = [lease for lease in book.held.values() if lease.learner == "b" and not lease.done]
    pieces = {(lease.turn, lease.stop): int(lease.safe) for lease in dead}
    repeats = sum(int(lease.reached) - int(lease.safe) for lease in dead)
    assert len(dead) >= 2, "two ahead"
    run.go(40.0)
    book = run.world.coordinator.core.state.leases
    assert {each.learner for each in book.held.values()} <= {"a"}
    again = {(turn, stop): first for turn, first, stop in book.returned}
    again |= {(each.turn, each.stop): each.first for each in book.held.values()}
    assert {piece: again.get(piece, safe) for piece, safe in pieces.items()} == pieces
    assert book.repeats == repeats


# ---------------------------------------------------------------- epochs


def test_a_learner_refuses_a_lower_epoch_of_the_same_party_only() -> None:
    learner = HandLearner(P=2)
    learner(msg.Published(3, 0, 1, "x", ()))
    assert refused(learner.core, msg.Published(2, 1, 5, "y", ())) == "old_epoch"
    assert refused(learner.core, msg.Call(2, 1, 9, 2)) == "old_epoch"
    learner(msg.Progress(1, 10, 0, 100))
    assert learner.core.state.budget == 100, "the coordinator has an epoch of its own"
    learner(msg.Progress(2, 20, 0, 100))
    assert refused(learner.core, msg.Ended(1, "says a fenced one")) == "old_epoch"


def test_a_restarted_shard_speaks_in_its_higher_epoch() -> None:
    shard = HandShard("a")
    shard.round("a")
    shard(ev.Restarted(2))
    shard.back("a")
    assert {p.epoch for p in said(shard.out, msg.Published)} == {2}
    with pytest.raises(AssertionError, match="higher epoch"):
        shard(ev.Restarted(2))


# ---------------------------------------------------------------- durable, and restarts


def restart(shard: HandShard, log: list[ev.MergeRecovered], **kept: object) -> None:
    """The process is gone: a new one reads snapshot and log."""
    state = kept.get("state") or shard.core.snapshot()
    shard.core = ShardCore.restore(shard.settings, 0, 1, state)  # type: ignore[arg-type]
    for each in log:
        assert not of(shard(each), fx.Refuse)
    shard(ev.Restarted(shard.core.state.epoch + 1))


def recovered(order: fx.Merge) -> ev.MergeRecovered:
    return ev.MergeRecovered(
        order.fragment,
        order.version,
        str(order.version),
        order.round,
        order.marks,
        order.through,
        order.merged_tokens,
    )


def test_a_restart_from_snapshot_and_log_knows_every_merge_that_was_seen() -> None:
    shard = HandShard("a", "b")
    shard.round("a", "b")
    kept = shard.core.snapshot()
    log = [recovered(shard.round("a", "b")), recovered(shard.round("a"))]
    restart(shard, log, state=kept)
    fragment = shard.fragment()
    assert (fragment.version, fragment.merged_tokens) == (3, 400 * 2 + 400 * 2 + 400)
    assert {mark.learner: mark.version for mark in fragment.marks.values()} == {"a": 3, "b": 2}
    assert said(shard.out, msg.Settled)[0].version == 3


def test_a_merge_in_the_log_is_taken_into_account_once() -> None:
    shard = HandShard("a")
    log = [recovered(shard.round("a"))]
    restart(shard, log)
    restart(shard, log)
    assert (shard.fragment().version, shard.fragment().merged_tokens) == (1, 400)


def test_after_a_restart_a_merged_cut_is_not_merged_again() -> None:
    shard = HandShard("a", "b")
    kept = shard.core.snapshot()
    order = shard.round("a", "b")
    restart(shard, [recovered(order)], state=kept)
    for name in ("a", "b"):
        shard.back(name)
    (part, _) = order.parts
    shard(ev.Arrived(part.cut))
    assert codes(shard.out, fx.Discard) == ["counted"]


def test_what_was_not_merged_when_the_shard_died_is_asked_for_again() -> None:
    shard = HandShard("a", "b")
    shard.round("a", "b")
    shard.steps(4)
    cut = shard.arrive("b")
    restart(shard, [])
    assert shard.fragment().round is None
    shard.back("b")
    shard.beat("b", outstanding=(cut,))
    assert [wanted.cut for wanted in said(shard.out, msg.Wanted)] == [cut.id]
    shard(ev.Arrived(cut))
    assert shard.fragment().fallback == {"b": cut}


def test_rounds_after_a_restart_have_numbers_that_were_never_used() -> None:
    shard = HandShard("a")
    shard.round("a")
    kept = shard.core.snapshot()
    shard.round("a")
    lost = shard.fragment().round_number
    restart(shard, [], state=kept)
    shard.back("a")
    effects = shard.steps(8)
    assert min(call.number for call in said(effects, msg.Call)) > lost


def test_a_snapshot_goes_on_exactly_where_it_was_taken() -> None:
    first, second = HandShard("a", "b"), HandShard("a", "b")
    first.round("a", "b")
    second.round("a", "b")
    second.core = ShardCore.restore(second.settings, 0, 1, second.core.snapshot())
    for shard in (first, second):
        shard.steps(3)
        shard.arrive("a")
    assert first.out == second.out
    assert first.core.state == second.core.state

    learner = HandLearner()
    learner.steps(4)
    learner.cut()
    copied = LearnerCore.restore(learner.settings, "layout-1", learner.core.snapshot())
    event = ev.Boundary(9, 900, 1.0)
    assert copied.handle(9.0, event) == learner.core.handle(9.0, event)
    assert copied.state == learner.core.state


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (object(), "unknown_event"),
        (msg.Begin(1), "unknown_event"),
        (ev.Merged(0, 9, "x"), "unasked"),
        (ev.MergeFailed(0, 9, "x", "y"), "unasked"),
        (ev.InitialStored(7, "x"), "unasked"),
        (msg.Report("a", 9, 1, 100, 1.0), "stale_incarnation"),
        (msg.Report("z", 1, 1, 100, 1.0), "stale_incarnation"),
        (msg.Report("a", 1, 9, 900, -1.0), "malformed"),
        (msg.Report("a", 1, 9, 900, float("nan")), "malformed"),
        (msg.Beat("a", 9, 0.0, 0.0, (0,), ()), "stale_incarnation"),
        (msg.Beat("a", 1, float("inf"), 0.0, (0,), ()), "malformed"),
        (msg.Beat("a", 1, 0.0, 0.0, (0, 0), ()), "malformed"),
        (ev.Connected("a", 0), "stale_incarnation"),
    ],
    ids=str,
)
def test_a_shard_refuses_with_a_reason_and_changes_nothing(event: object, code: str) -> None:
    shard = HandShard("a")
    assert refused(shard.core, event) == code


def test_a_shard_refuses_bytes_of_strangers_of_other_shards_and_repeated_ones() -> None:
    shard = HandShard("a", "b")
    shard.steps(4)
    cut = shard.arrive("a")
    assert refused(shard.core, ev.Arrived(cut)) == "duplicate"
    foreign = [
        ev.Cut(CutId("z", 1, 1), 0, 0, 0, 100, 1, 1, 1),
        ev.Cut(CutId("a", 1, 1), 5, 0, 0, 100, 1, 1, 1),
        ev.Cut(CutId("a", 1, 1), -1, 0, 0, 100, 1, 1, 1),
    ]
    for each in foreign:
        assert refused(shard.core, ev.Arrived(each)) == "foreign"


@pytest.mark.parametrize(
    "event",
    [
        object(),
        msg.Admitted("a", 1),
        msg.Call(1, 9, 1, 2),
        msg.Call(1, -1, 1, 2),
        msg.Call(1, 0, 1, 0),
        msg.Published(1, 0, -1, "x", ()),
        msg.Published(1, 9, 1, "x", ()),
        msg.Dropped(1, CutId("b", 1, 1), 0, "x", "y"),
        msg.Dropped(1, CutId("a", 9, 1), 0, "x", "y"),
        msg.Progress(1, 10, 20, 100),
        msg.Progress(1, 10, 0, 0),
        msg.Welcome(1, "b", 2, False, 1, True),
        msg.Welcome(1, "a", 2, False, 1, True, "process-2"),
        msg.Rejected(1, "a", "x", "y", True, "process-2"),
        ev.Fetched(0, 5),
        ev.JoinAsked("process-1"),
    ],
    ids=str,
)
def test_a_learner_refuses_with_a_reason_and_changes_nothing(event: object) -> None:
    learner = HandLearner()
    learner.steps(3)
    assert refused(learner.core, event)


def test_who_is_over_refuses_everything() -> None:
    learner = HandLearner()
    learner(msg.Ended(1, "the budget is reached"))
    assert refused(learner.core, msg.Call(1, 0, 1, 2)) == "over"


def facts(shard: HandShard) -> object:
    """All that a shard knows, less when it will look at whom again."""
    state = shard.core.snapshot()
    state.roster.heap.clear()
    for member in state.roster.members.values():
        member.due_s = 0.0
    return state


@pytest.mark.parametrize("times", [1, 2, 5])
def test_messages_that_come_twice_change_nothing_more(times: int) -> None:
    shard = HandShard("a", "b")
    shard.steps(2)
    for _ in range(times):
        shard(msg.Report("a", 1, 2, 200, 1.0))
        shard(msg.Admitted("a", 1))
        shard(ev.Connected("a", 1))
    once = HandShard("a", "b")
    once.steps(2)
    assert facts(shard) == facts(once)

    learner = HandLearner()
    learner.steps(4)
    for _ in range(times):
        learner(msg.Call(1, 0, 1, 2))
    assert len(learner.cuts) == 1
    (announce,) = said(learner.boundary(), msg.Announce)
    learner(msg.Call(1, 0, 1, 2))
    assert not learner.cuts, "a call that was answered is not answered again"
    for _ in range(times):
        learner.announce(0, 1, announce.cut)
    learner(ev.Fetched(0, 1))
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 100}
