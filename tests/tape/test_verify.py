"""Verify: a good run passes every check, and each check finds the violation planted for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.ids import Cut
from atoll.core.reasons import Reason
from atoll.tape.checks import CHECKS
from atoll.tape.read import Entry
from atoll.tape.record import TapeSettings
from atoll.tape.verify import WHOLE, VerifyReport, verify
from tape.edit import Change, cut_off, edit, edit_state, on_effect, on_event, on_message, once
from tape.recorded import Recording, make_world, stormy_run

SMALL = TapeSettings(segment_entries=400)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody is killed, every tape is ended properly: nothing may be unknown."""
    root = tmp_path_factory.mktemp("calm")
    world = make_world(21)
    recording = Recording(world, root, SMALL)
    world.run_for(90)
    recording.close()
    return root


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kills, a cut link, a syncer that restarts."""
    root = tmp_path_factory.mktemp("storm")
    stormy_run(root, seed=22, settings=SMALL)
    return root


def copy(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to / "tape"))


def wrong(report: VerifyReport) -> list[str]:
    return [f"{each.name}: {each.detail}" for each in report.checks if not each.ok]


def test_a_calm_run_passes_with_nothing_unknown(calm: Path) -> None:
    report = verify(calm)
    assert report.ok, wrong(report)
    assert not report.notes and not report.torn and not report.missing
    assert [each.name for each in report.checks] == [WHOLE, *CHECKS]
    for each in report.checks:
        assert each.rule.endswith(".") and not each.detail.startswith("0 ")


def test_a_stormy_run_passes(storm: Path) -> None:
    report = verify(storm)
    assert report.ok, wrong(report)
    assert not report.torn and not report.missing


def test_a_cut_of_which_a_killed_learner_could_not_speak_is_unknown(
    calm: Path, tmp_path: Path
) -> None:
    """While no shard can be reached a cut is taken in silence; its upload may be off the tape."""
    silent = on_effect(fx.Upload, lambda _: fx.Note(Reason("x")))
    mute = on_message(msg.Announce, lambda _: msg.Leave("l0", 0, ""))
    passed = []

    def change(entry: Entry) -> Entry | None:
        if passed:
            return None
        if isinstance(entry.event, ev.Boundary) and entry.event.step > 40 and entry.event.cuts:
            passed.append(entry)
            uploads = silent(entry)
            return mute(uploads) if uploads is not None else None
        return entry

    root = copy(calm, tmp_path)
    edit(root, "l0", change)
    ended = verify(root)
    cut_off(root, "l0")
    killed = verify(root)
    assert any(TAKEN in each for each in wrong(ended)), "who had time to speak has to"
    assert killed.ok, wrong(killed)
    assert any("l0" in note for note in killed.notes)


def test_every_check_says_in_a_sentence_what_must_hold() -> None:
    for name, check in CHECKS.items():
        sentence = (check.__doc__ or "").split("\n")[0]
        assert sentence.endswith(".") and len(sentence) > 40, name


# ---------------------------------------------------------------- one violation for each check


def first_part(change: Callable[[Cut], Cut]) -> Change:
    """Change the cut of the first part of a merge, in its parts alone."""

    def changed(order: fx.Merge) -> fx.Merge:
        part = replace(order.parts[0], cut=change(order.parts[0].cut))
        return replace(order, parts=(part, *order.parts[1:]))

    return on_effect(fx.Merge, changed)


def no_reports(entry: Entry) -> Entry:
    return replace(entry, event=ev.Tick()) if isinstance(entry.event, msg.Report) else entry


def no_second_merge(entry: Entry) -> Entry:
    event = entry.event
    gone = isinstance(event, ev.Merged) and (event.fragment, event.version) == (2, 2)
    return replace(entry, event=ev.Tick(), effects=[]) if gone else entry


def all_work_again(cut: Cut) -> Cut:
    return replace(cut, first_token=0)


def cuts_of_all_work(entry: Entry) -> Entry | None:
    uploads = on_effect(fx.Upload, lambda u: replace(u, cut=all_work_again(u.cut)))
    announces = on_message(msg.Announce, lambda a: replace(a, cut=all_work_again(a.cut)))
    uploaded = uploads(entry)
    return announces(uploaded) if uploaded is not None else None


def other_code(forget: fx.Forget) -> fx.Forget:
    return replace(forget, reason=Reason("late")) if forget.reason.code == "merged" else forget


def far_ahead(published: msg.Published) -> msg.Published:
    return replace(published, version=published.version + 1000, digest="x")


def more_cuts(boundary: ev.Boundary) -> ev.Boundary:
    return replace(boundary, cuts=(0, 1, 2)) if boundary.cuts else boundary


def more_installs(boundary: ev.Boundary) -> ev.Boundary:
    late = boundary.step > 20 and boundary.installs
    return replace(boundary, installs=tuple(range(6))) if late else boundary


TAKEN = "merged_cuts_were_taken"
LEDGER = "ledger_has_no_gap_or_overlap"
FATES = "fates_agree"
LATER = 40
"""Entries passed over, so that the change hits the middle of the run."""

PLANTED: list[tuple[str, str, Change, set[str]]] = [
    # the check, whose tape, the change, and which other checks may see it as well
    ("durable_before_visible", "l0", once(on_event(msg.Published, far_ahead), LATER), set()),
    (
        "durable_before_visible",
        "shard-0",
        once(on_message(msg.Published, far_ahead), 10),
        set(),
    ),
    (
        "one_digest_per_version",
        "l1",
        once(on_event(msg.Published, lambda p: replace(p, digest="other")), LATER),
        set(),
    ),
    ("versions_rise_by_one", "shard-0", no_second_merge, {FATES, "durable_before_visible"}),
    (
        TAKEN,
        "shard-1",
        once(first_part(lambda c: replace(c, base=c.base - 1)), 5),
        set(),
    ),
    (
        TAKEN,
        "shard-1",
        once(first_part(lambda c: replace(c, id=replace(c.id, number=c.id.number + 5000))), 5),
        {FATES},
    ),
    (
        "merged_work_is_disjoint",
        "shard-0",
        once(first_part(lambda c: replace(c, first_token=0)), 12),
        {TAKEN},
    ),
    (
        "no_stale_life_was_merged",
        "shard-0",
        once(on_event(msg.Admitted, lambda a: replace(a, incarnation=a.incarnation + 9))),
        set(),
    ),
    (
        "every_merge_had_its_quorum",
        "shard-1",
        once(on_effect(fx.Merge, lambda m: replace(m, parts=(), marks=())), 5),
        {FATES},
    ),
    (
        LEDGER,
        "l2",
        cuts_of_all_work,
        {TAKEN},
    ),
    (LEDGER, "l2", once(on_event(ev.Boundary, lambda b: replace(b, tokens=0)), 20), set()),
    (FATES, "l3", once(on_effect(fx.Forget, other_code), 5), {LEDGER}),
    ("boundary_limits", "l0", once(on_event(ev.Boundary, more_cuts), 10), set()),
    ("boundary_limits", "l0", once(on_event(ev.Boundary, more_installs)), set()),
    (
        "epochs_never_go_down",
        "l1",
        once(on_event(msg.Call, lambda c: replace(c, epoch=0)), LATER),
        set(),
    ),
    (
        "epochs_never_go_down",
        "shard-1",
        once(on_message(msg.Call, lambda c: replace(c, epoch=0)), 10),
        {"launch_floor"},
    ),
    ("launch_floor", "shard-0", no_reports, set()),
    (
        "what_was_heard_was_said",
        "l0",
        once(on_event(msg.Call, lambda c: replace(c, number=c.number + 900)), LATER),
        set(),
    ),
    (
        "what_was_heard_was_said",
        "shard-0",
        on_message(msg.Dropped, lambda d: replace(d, fragment=d.fragment + 2)),
        set(),
    ),
]


@pytest.mark.parametrize("case", range(len(PLANTED)), ids=lambda i: f"{i}-{PLANTED[i][0]}")
def test_a_planted_violation_is_found(calm: Path, tmp_path: Path, case: int) -> None:
    name, party, change, others = PLANTED[case]
    tape = copy(calm, tmp_path)
    assert edit(tape, party, change)
    report = verify(tape)
    assert name in report.failed, wrong(report)
    assert set(report.failed) <= {name, *others}, wrong(report)


def test_a_cut_that_was_merged_twice_is_found(calm: Path, tmp_path: Path) -> None:
    tape = copy(calm, tmp_path)
    seen: list[fx.Part] = []

    def again(order: fx.Merge) -> fx.Merge:
        if order.fragment != 2:
            return order
        if order.version == 2:
            seen[:] = [order.parts[0]]
        if order.version != 4:
            return order
        others = [part for part in order.parts if part.cut.id.learner != seen[0].cut.id.learner]
        return replace(order, parts=(seen[0], *others))

    assert edit(tape, "shard-0", on_effect(fx.Merge, again)) == 1
    report = verify(tape)
    assert "counted_once" in report.failed
    assert set(report.failed) <= {"counted_once", "merged_work_is_disjoint", FATES}
    assert "is in version 4 of fragment 2 and in 2" in wrong(report)[0]


def test_a_shard_that_forgot_a_durable_version_is_found(storm: Path, tmp_path: Path) -> None:
    tape = copy(storm, tmp_path)

    def forgets(entry: Entry) -> Entry | None:
        return None if isinstance(entry.event, ev.MergeRecovered) else entry

    assert edit(tape, "shard-0", forgets)
    report = verify(tape)
    assert "nothing_durable_is_lost" in report.failed
    others = {"durable_before_visible", "versions_rise_by_one", WHOLE}
    assert set(report.failed) <= {"nothing_durable_is_lost", *others}


def test_a_second_process_of_the_same_epoch_is_found(storm: Path, tmp_path: Path) -> None:
    tape = copy(storm, tmp_path)
    edit(tape, "coordinator", on_event(ev.Restarted, lambda r: replace(r, epoch=1)))
    assert "epochs_never_go_down" in verify(tape).failed


def test_a_ledger_that_does_not_add_up_in_a_state_is_found(calm: Path, tmp_path: Path) -> None:
    tape = copy(calm, tmp_path)

    def off_by_one(state: Any) -> None:
        state.holdings[3].ledger.merged += 1

    edit_state(tape, "l0", off_by_one)
    report = verify(tape)
    assert report.failed == [LEDGER]
    assert "fragment 3 is off by 1" in wrong(report)[0]


# ---------------------------------------------------------------- what is missing is said


def test_the_missing_tape_of_a_learner_is_accepted_and_said(storm: Path, tmp_path: Path) -> None:
    tape = copy(storm, tmp_path)
    shutil.rmtree(tape / "l1")
    report = verify(tape)
    assert report.ok, wrong(report)
    assert report.missing == ["there is no tape of learner l1: it is believed"]
    assert any("there is no tape of l1" in note for note in report.notes)


def test_the_missing_tape_of_a_shard_is_said(calm: Path, tmp_path: Path) -> None:
    tape = copy(calm, tmp_path)
    shutil.rmtree(tape / "shard-1")
    report = verify(tape)
    assert report.ok, wrong(report)
    assert report.missing == ["there is no tape of shard-1"]
    assert report.notes


@pytest.mark.parametrize("seed", range(5))
def test_killed_processes_that_lost_the_end_of_their_tapes(tmp_path: Path, seed: int) -> None:
    world = make_world(seed)
    recording = Recording(world, tmp_path, replace(SMALL, buffer_bytes=4096))
    world.run_for(40)
    world.learners["l1"].kill()
    recording.lose_buffer("l1")
    world.run_for(20)
    world.kill_syncer()
    for party in ("coordinator", "shard-0", "shard-1"):
        recording.lose_buffer(party)
    world.run_for(4)
    world.start_syncer()
    world.learners["l1"].start()
    world.run_for(40)
    world.learners["l2"].kill()
    recording.lose_buffer("l2")
    world.run_for(10)
    recording.close()
    report = verify(tmp_path)
    assert report.ok, wrong(report)


def test_tapes_of_which_the_beginning_was_not_kept(tmp_path: Path) -> None:
    settings = TapeSettings(segment_entries=150, keep_segments=2)
    stormy_run(tmp_path, seed=4, settings=settings)
    report = verify(tmp_path)
    assert report.ok, wrong(report)
