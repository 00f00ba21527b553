"""Receipts: what becomes of a learner's work when a version comes, with the ledger's figures.

Rules of "Words", "Receipt", "Ledger", and the learner's side of "A late cut". One step is
100 tokens throughout. The table from sentences to tests is in README.md beside this file.
"""

from __future__ import annotations

from typing import Any

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from pair import HandLearner, codes, of, refused, said

EVERY_RECEIPT = ("overwrite", "keep", "alpha")


def install(learner: HandLearner) -> fx.InstallOrder:
    """The install ordered for the next boundary."""
    (order,) = learner.installs.values()
    return order


def handed_in(**settings: Any) -> tuple[HandLearner, Any]:
    """Four steps, the boundary that cuts is the fifth; two more steps after it."""
    learner = HandLearner(**settings)
    learner.steps(4)
    cut = learner.cut()
    learner.steps(2)
    assert learner.fates() == {"in_flight": 500, "open": 200}
    return learner, cut


# ---------------------------------------------------------------- words


def test_a_cut_names_its_base_its_call_and_all_work_since_the_last_install() -> None:
    learner = HandLearner()
    learner.steps(4)
    cut = learner.cut()
    assert (cut.base, cut.call, cut.steps, cut.tokens, cut.at_step) == (0, 1, 5, 500, 5)
    learner.publish(0, 1, cut)
    learner.steps(3)
    cut = learner.cut()
    assert (cut.base, cut.call, cut.steps, cut.first_token, cut.end_token) == (1, 2, 4, 500, 900)


def test_a_call_is_answered_at_the_next_boundary_with_the_steps_that_are_there() -> None:
    learner = HandLearner()
    learner.steps(1)
    (order,) = of(learner.call(), fx.CutOrder)
    (announce,) = said(learner.boundary(), msg.Announce)
    assert announce.cut.id == order.id
    assert announce.cut.steps == 2
    assert [upload.cut for upload in of(learner.out, fx.Upload)] == [announce.cut]


def test_a_call_without_work_is_answered_with_nothing() -> None:
    learner = HandLearner()
    learner.call()
    effects = learner.boundary(0)
    assert not said(effects, msg.Announce)
    assert codes(effects, fx.Forget) == ["empty"]
    assert learner.fates() == {}


# ---------------------------------------------------------------- merged


def test_overwrite_drops_what_was_done_after_the_cut() -> None:
    learner, cut = handed_in(receipt="overwrite")
    learner.publish(0, 1, cut)
    assert (install(learner).rule, install(learner).accepted) == ("set", -1)
    learner.boundary()
    assert learner.fates() == {"merged": 500, "overwritten": 300}


def test_keep_takes_only_the_merged_part_out_of_the_counters() -> None:
    learner, cut = handed_in(receipt="keep")
    learner.publish(0, 1, cut)
    assert (install(learner).rule, install(learner).accepted) == ("keep", cut.id.number)
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 300}
    assert learner.cut().first_token == 500


def test_alpha_mixes_and_counts_the_merged_part_as_merged() -> None:
    learner, cut = handed_in(receipt="alpha")
    learner.publish(0, 1, cut)
    assert install(learner).rule == "alpha"
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 300}


@pytest.mark.parametrize("receipt", EVERY_RECEIPT)
def test_marks_are_cumulative_so_a_missed_version_does_not_hide_a_merge(receipt: str) -> None:
    learner, cut = handed_in(receipt=receipt)
    marks = (ev.Mark("a", 1, cut.id.number, 1), ev.Mark("b", 2, 9, 2))
    learner(msg.Published(1, 0, 2, "2", marks))  # version 1 never came
    learner(ev.Fetched(0, 2))
    learner.boundary()
    assert learner.fates()["merged"] == 500


# ---------------------------------------------------------------- not merged


def never_handed_in(**settings: Any) -> HandLearner:
    """Four steps, no cut, and a version that others made."""
    learner = HandLearner(**settings)
    learner.steps(4)
    learner.publish(0, 1)
    return learner


@pytest.mark.parametrize("receipt", EVERY_RECEIPT)
def test_carry_keeps_unmerged_work_on_the_new_version(receipt: str) -> None:
    learner = never_handed_in(receipt=receipt, unmerged="carry")
    assert (install(learner).rule, install(learner).accepted) == ("keep", -1)
    learner.boundary()
    assert learner.fates() == {"open": 500}
    cut = learner.cut()
    assert (cut.base, cut.steps, cut.tokens) == (1, 6, 600)


@pytest.mark.parametrize("receipt", EVERY_RECEIPT)
def test_drop_lets_unmerged_work_go(receipt: str) -> None:
    learner = never_handed_in(receipt=receipt, unmerged="drop")
    assert (install(learner).rule, install(learner).accepted) == ("set", -1)
    learner.boundary()
    assert learner.fates() == {"unmerged": 500}


def test_under_carry_a_late_cut_stays_in_flight_until_its_fate_comes() -> None:
    learner, cut = handed_in(unmerged="carry")
    learner.publish(0, 1)
    learner.boundary()
    assert learner.fates() == {"in_flight": 500, "open": 300}
    learner.publish(0, 2, cut)  # it stood in for the next round
    assert install(learner).accepted == cut.id.number
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 400}


def test_under_drop_a_late_cut_may_still_be_merged_and_nothing_is_taken_out_twice() -> None:
    learner, cut = handed_in(unmerged="drop")
    learner.publish(0, 1)
    learner.boundary()
    assert learner.fates() == {"in_flight": 500, "unmerged": 300}
    learner.steps(2)
    learner.publish(0, 2, cut)
    assert install(learner).accepted == -1, "its displacement is not in the parameters any more"
    learner.boundary()
    assert learner.fates() == {"merged": 500, "unmerged": 300, "open": 300}


@pytest.mark.parametrize(("unmerged", "fate"), [("carry", "open"), ("drop", "late")])
def test_a_refused_cut_is_open_again_or_lost_with_the_syncers_reason(
    unmerged: str, fate: str
) -> None:
    learner, cut = handed_in(unmerged=unmerged)
    learner.publish(0, 1)
    learner.boundary()
    effects = learner.drop(cut, "late")
    assert "the syncer says late" in of(effects, fx.Note)[0].reason.sentence
    assert [forget.cut for forget in of(effects, fx.Forget)] == [cut.id]
    expected = {"open": 800} if unmerged == "carry" else {"unmerged": 300, fate: 500}
    assert learner.fates() == expected


def test_drop_waits_with_the_install_for_a_cut_that_is_called() -> None:
    learner = HandLearner(unmerged="drop")
    learner.steps(4)
    learner.call()
    learner.publish(0, 1)
    assert not learner.installs, "or the work called for would be dropped before it is cut"
    learner.boundary()
    assert learner.fates() == {"in_flight": 500}
    learner.boundary()
    assert learner.fates() == {"in_flight": 500, "unmerged": 100}


# ---------------------------------------------------------------- too old


def test_work_of_more_than_two_h_that_had_its_chance_is_too_old() -> None:
    learner, cut = handed_in(H=4)
    learner.drop(cut, "stale")
    learner.steps(2)
    assert learner.core.state.steps == 9 > 2 * 4
    learner.publish(0, 1)
    assert (install(learner).rule, codes(learner.out, fx.InstallOrder)) == ("set", ["too_old"])
    learner.boundary()
    assert learner.fates() == {"too_old": 1000}


def test_work_of_two_h_is_not_too_old() -> None:
    learner, cut = handed_in(H=4)
    learner.drop(cut, "stale")
    learner.steps(1)
    learner.publish(0, 1)
    assert install(learner).rule == "keep"


def test_long_work_that_was_never_handed_in_has_its_chance_first() -> None:
    learner = HandLearner(H=4)
    learner.steps(12)
    learner.publish(0, 1)
    assert install(learner).rule == "keep"
    learner.publish(0, 3)
    learner.boundary()
    assert learner.fates() == {"open": 1300}
    cut = learner.cut()
    assert (cut.base, cut.steps) == (3, 14)


def test_long_work_whose_base_is_left_behind_is_too_old_without_a_chance() -> None:
    learner = HandLearner(H=4)
    learner.steps(12)
    learner.publish(0, 3)
    learner.boundary()
    assert learner.fates() == {"too_old": 1300}


def test_long_work_is_not_given_up_while_a_cut_of_it_waits_for_its_fate() -> None:
    learner, cut = handed_in(H=4)
    learner.steps(4)
    learner.publish(0, 1)
    assert install(learner).rule == "keep", "the cut waits as a fallback for the next round"
    learner.boundary()
    newer = learner.cut()
    assert newer.first_token == cut.first_token, "a newer cut holds the older one's work"
    learner.drop(cut, "replaced")
    learner.publish(0, 2, newer)
    learner.boundary()
    assert learner.fates() == {"merged": newer.tokens, "open": 100}


# ---------------------------------------------------------------- two cuts under way


def test_a_newer_cut_is_merged_and_the_older_one_in_it_is_counted_once() -> None:
    learner, first = handed_in()
    learner.publish(0, 1)
    learner.boundary()
    second = learner.cut()
    assert (second.first_token, second.end_token) == (0, 900)
    learner.drop(first, "replaced")
    learner.publish(0, 2, second)
    learner.boundary()
    assert learner.fates() == {"merged": 900, "open": 100}


def test_the_fallback_is_merged_while_a_newer_cut_is_under_way() -> None:
    learner, first = handed_in()
    learner.publish(0, 1)
    learner.boundary()
    second = learner.cut()
    learner.publish(0, 2, first)
    assert install(learner).accepted == first.id.number
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 500}
    learner.drop(second, "counted")
    assert learner.fates() == {"merged": 500, "open": 500}, "what it held beyond is open again"
    assert learner.cut().first_token == 500


@pytest.mark.parametrize("order", ["fate first", "version first"])
def test_a_drop_and_a_merge_of_the_same_cut_may_come_in_any_order(order: str) -> None:
    learner, cut = handed_in()
    if order == "version first":
        learner.announce(0, 1, cut)
        assert not of(learner.drop(cut, "counted"), fx.Forget), "the version says it better"
    else:
        learner.publish(0, 1, cut)
        learner.drop(cut, "counted")
    for fetch in of(learner.out, fx.Fetch):
        learner(ev.Fetched(fetch.fragment, fetch.version))
    if order == "version first":
        learner(ev.Fetched(0, 1))
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 300}


def test_no_cut_is_taken_while_a_version_with_own_work_is_not_installed() -> None:
    learner, cut = handed_in()
    learner.announce(0, 1, cut)
    learner.call()
    assert not learner.cuts, "its displacement would hold what version 1 holds"
    learner(ev.Fetched(0, 1))
    assert sorted(learner.installs) == sorted(learner.cuts) == [0]
    (announce,) = said(learner.boundary(), msg.Announce)
    assert (announce.cut.base, announce.cut.first_token) == (1, 500)


def test_no_cut_is_taken_on_a_base_that_is_too_stale() -> None:
    learner = HandLearner(max_staleness=1)
    learner.steps(4)
    learner.announce(0, 2)
    learner.call()
    assert not learner.cuts
    learner(ev.Fetched(0, 2))
    assert list(learner.cuts) == [0]


# ---------------------------------------------------------------- boundaries


def test_a_boundary_cuts_at_most_two_and_installs_at_most_tau_p_over_h() -> None:
    learner = HandLearner(P=8, H=8, tau=2)
    learner.steps(8)
    learner.core.state.tau = 2
    for fragment in range(8):
        learner.publish(fragment, 1)
        learner.call(fragment)
    assert len(learner.installs) == 2
    assert len(learner.cuts) == 2
    installed, steps = len(learner.installs), 0
    while learner.installs:
        learner.boundary()
        steps += 1
        for transfer in list(learner.core.state.transfers):
            id = ev.CutId("a", 1, transfer.number)
            learner(ev.Uploaded(id))
        installed += len(learner.installs)
        assert len(learner.installs) <= 2 >= len(learner.cuts)
    assert (installed, steps) == (8, 4), "the rest follow at later boundaries"


def test_joining_installs_everything_at_once() -> None:
    learner = HandLearner(P=8, H=8, joined=False)
    learner.join()
    assert [holding.base for holding in learner.core.state.holdings] == [0] * 8


def test_what_a_boundary_did_not_carry_out_stays_ordered() -> None:
    learner, cut = handed_in()
    learner.publish(0, 1, cut)
    learner.at_step += 1
    learner(ev.Boundary(learner.at_step, learner.at_step * 100, 1.0))
    assert learner.fates() == {"in_flight": 500, "open": 300}
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 400}


def test_a_boundary_that_goes_back_is_refused() -> None:
    learner, _ = handed_in()
    assert refused(learner.core, ev.Boundary(3, 900, 1.0)) == "malformed"
    assert refused(learner.core, ev.Boundary(9, 300, 1.0)) == "malformed"


# ---------------------------------------------------------------- transfers


def test_a_failed_upload_is_tried_again_after_a_pause_that_doubles() -> None:
    learner = HandLearner(retry_s=1.0, beat_s=1000.0, silence_s=3000.0)
    learner.steps(4)
    learner.call()
    (announce,) = said(learner.boundary(), msg.Announce)
    pauses = []
    for _ in range(8):
        learner(ev.UploadFailed(announce.cut.id, "reset", final=False))
        pauses.append(learner.core.next_deadline_s() - learner.now_s)
        learner.now_s = learner.core.next_deadline_s()
        learner(ev.Tick())
        assert [upload.cut for upload in of(learner.out, fx.Upload)] == [announce.cut]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert learner.fates() == {"in_flight": 500}


def test_an_upload_that_the_syncer_does_not_want_is_dropped() -> None:
    learner = HandLearner()
    learner.steps(4)
    learner.call()
    (announce,) = said(learner.boundary(), msg.Announce)
    learner(ev.UploadFailed(announce.cut.id, "409 stale", final=True))
    assert learner.core.state.transfers == []
    assert learner.fates() == {"open": 500}


def test_an_upload_refused_after_its_cut_was_merged_changes_no_fate() -> None:
    learner = HandLearner()
    learner.steps(4)
    learner.call()
    (announce,) = said(learner.boundary(), msg.Announce)
    learner.publish(0, 1, announce.cut)
    learner(ev.UploadFailed(announce.cut.id, "410 closed", final=True))
    learner.boundary()
    assert learner.fates() == {"merged": 500, "open": 100}


def test_bytes_that_a_restart_lost_are_uploaded_again_when_wanted() -> None:
    learner, cut = handed_in()
    wanted = msg.Wanted(1, cut.id, 0)
    assert [upload.cut for upload in of(learner(wanted), fx.Upload)] == [cut]
    assert not of(learner(wanted), fx.Upload), "once"


def test_a_fetch_that_fails_is_tried_again_and_in_full_when_that_helps() -> None:
    learner = HandLearner()
    learner.announce(0, 1)
    assert [fetch.full for fetch in of(learner.out, fx.Fetch)] == [False]
    learner(ev.FetchFailed(0, 1, "wrong digest", full=True))
    learner.now_s += learner.settings.retry_s
    assert [fetch.full for fetch in of(learner(ev.Tick()), fx.Fetch)] == [True]


def test_a_newer_version_than_asked_for_may_come() -> None:
    learner = HandLearner()
    learner.announce(0, 1)
    learner.announce(0, 2)
    learner(ev.Fetched(0, 2))
    assert install(learner).version == 2
    learner.boundary()
    assert learner.core.state.holdings[0].base == 2


# ---------------------------------------------------------------- the end of a life


def test_a_new_life_ends_the_work_of_the_old_one_and_takes_everything_from_the_syncer() -> None:
    learner, cut = handed_in()
    learner(msg.Welcome(1, "a", 5, False, 1, True, "process-1"))
    assert learner.core.state.tokens == 0
    assert learner.core.state.holdings[0].base == -1
    assert cut.id in [forget.cut for forget in of(learner.out, fx.Forget)]
    learner.publish(0, 3)
    assert install(learner).rule == "set"
    learner.steps(2)
    assert learner.fates() == {"joined": 100, "open": 100}


def test_a_resumed_session_keeps_everything() -> None:
    learner, _ = handed_in()
    learner(ev.LinkDown("coordinator", "cut"))
    learner(ev.LinkUp("coordinator"))
    (hello,) = said(learner.out, msg.Hello)
    assert hello.incarnation == 1
    learner(msg.Welcome(1, "a", 1, True, 1, True, "process-1"))
    assert learner.fates() == {"in_flight": 500, "open": 200}


def test_rejections_that_keep_coming_do_not_put_off_the_hello() -> None:
    """Each beat under a life that is over is answered with one; a hello may be lost on its way."""
    learner, _ = handed_in()
    beat_s = learner.core.settings.beat_s
    rejected = msg.Rejected(1, "a", "stale_incarnation", "say hello again", False, "process-1")
    learner(rejected)
    learner.now_s += beat_s
    learner(rejected)
    assert len(said(learner(ev.Tick()), msg.Hello)) == 1


def test_a_normal_exit_hands_in_the_last_work_and_then_leaves() -> None:
    learner = HandLearner()
    learner.steps(3)
    learner(ev.LeaveAsked("the loop is over", 30.0))
    (announce,) = said(learner.boundary(0), msg.Announce)
    assert (announce.cut.call, announce.cut.steps) == (0, 3)
    assert not said(learner.out, msg.Leave)
    learner(ev.Uploaded(announce.cut.id))
    assert len(said(learner.out, msg.Leave)) == 1
    assert [over.failed for over in of(learner.out, fx.Over)] == [False]


def test_the_last_cut_waits_for_the_fate_of_the_one_before_it() -> None:
    learner, cut = handed_in()
    learner(ev.Uploaded(cut.id))
    assert not of(learner(ev.LeaveAsked("the loop is over", 30.0)), fx.CutOrder)
    learner.publish(0, 1, cut)
    assert not of(learner.out, fx.CutOrder), "beside its version it would be void"
    effects = learner.boundary(0)
    (announce,) = said(effects + learner.boundary(0), msg.Announce)
    assert (announce.cut.base, announce.cut.first_token, announce.cut.end_token) == (1, 500, 700)
    assert not said(learner.out, msg.Leave)
    assert len(said(learner(ev.Uploaded(announce.cut.id)), msg.Leave)) == 1


def test_the_last_cut_replaces_one_that_its_round_did_not_take() -> None:
    learner, cut = handed_in()
    learner(ev.Uploaded(cut.id))
    learner(ev.LeaveAsked("the loop is over", 30.0))
    learner(msg.Published(1, 0, 1, "1", ()))
    (announce,) = said(learner.boundary(0), msg.Announce)
    assert (announce.cut.first_token, announce.cut.end_token) == (0, 700)


def test_the_last_cut_waits_for_a_fate_half_of_its_time_at_most() -> None:
    learner, cut = handed_in()
    learner(ev.Uploaded(cut.id))
    learner(ev.LeaveAsked("the loop is over", 30.0))
    learner.now_s += 14.9
    assert not of(learner(ev.Tick()), fx.CutOrder)
    learner.now_s += 0.1
    assert learner.core.next_deadline_s() <= learner.now_s
    learner(ev.Tick())
    (announce,) = said(learner.boundary(0), msg.Announce)
    assert (announce.cut.first_token, announce.cut.end_token) == (0, 700)


def test_a_normal_exit_takes_no_longer_than_its_limit() -> None:
    learner = HandLearner()
    learner.steps(3)
    learner(ev.LeaveAsked("the loop is over", 5.0))
    learner.boundary(0)  # the upload never ends
    learner.now_s += 4.9
    assert not of(learner(ev.Tick()), fx.Over)
    learner.now_s += 0.1
    (over,) = of(learner(ev.Tick()), fx.Over)
    assert not over.failed
    assert "the time to hand in is over" in over.reason.sentence


def test_an_exit_with_nothing_to_hand_in_is_immediate() -> None:
    learner = HandLearner()
    assert [over.failed for over in of(learner(ev.LeaveAsked("over", 30.0)), fx.Over)] == [False]
