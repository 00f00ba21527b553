"""Replay: a good tape is equal, anything that was changed is found, a torn tail is named."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.reasons import Reason
from atoll.tape.format import segment_files
from atoll.tape.read import read_segment
from atoll.tape.record import TapeSettings
from atoll.tape.replay import replay
from atoll.tape.verify import verify
from tape.edit import Change, edit, edit_state, on_effect, on_event, on_message, once
from tape.recorded import Recording, make_world, stormy_run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    stormy_run(root, seed=11, settings=TapeSettings(segment_entries=300, check_entries=50))
    return root


@pytest.fixture
def tape(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "tape"))


def test_a_run_with_kills_and_a_restart_replays_equal(good: Path) -> None:
    report = replay(good)
    assert report.equal, report.first_difference
    assert report.parties == 7 and report.segments > 15
    assert report.events > 4000 and report.effects > 2000
    assert report.state_checks > 50 and report.merges > 30
    assert not report.torn and not report.damage


@pytest.mark.parametrize("seed", range(4))
def test_other_settings_replay_equal_too(tmp_path: Path, seed: int) -> None:
    chosen: dict[str, Any] = [
        {"receipt": "overwrite", "unmerged": "drop", "K": 2},
        {"receipt": "alpha", "num_shards": 1, "tau": 3, "weighting": "tokens"},
        {"K": "all", "scale_stale": True, "look_ahead": 2},
        {"on_quorum_loss": "degrade", "K": 3, "max_staleness": 0, "silence_s": 10, "beat_s": 1},
    ][seed]
    stormy_run(tmp_path, seed, TapeSettings(segment_entries=500), **chosen)
    assert replay(tmp_path).first_difference == ""
    report = verify(tmp_path)
    assert report.ok, [check for check in report.checks if not check.ok]


CHANGES: dict[str, tuple[str, Change]] = {
    "tokens of a merge": ("shard-0", on_effect(fx.Merge, lambda m: replace(m, merged_tokens=1))),
    "a weight": (
        "shard-1",
        on_effect(
            fx.Merge,
            lambda m: replace(m, parts=(replace(m.parts[0], weight=7.5), *m.parts[1:])),
        ),
    ),
    "a reason code": (
        "l0",
        on_effect(fx.CutOrder, lambda o: replace(o, reason=Reason("whim"))),
    ),
    "tau of a call": ("shard-0", on_message(msg.Call, lambda c: replace(c, tau=c.tau + 1))),
    "steps of a boundary": ("l0", on_event(ev.Boundary, lambda b: replace(b, step=b.step + 1))),
    "tokens of a report": (
        "coordinator",
        on_event(msg.Report, lambda r: replace(r, tokens=r.tokens + 1)),
    ),
    "steps of a report": (
        "shard-0",
        on_event(msg.Report, lambda r: replace(r, step=r.step + 5)),
    ),
    "an effect less": ("l2", lambda e: replace(e, effects=e.effects[:-1])),
    "an event less": ("shard-1", lambda e: None if isinstance(e.event, ev.Merged) else e),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_change_is_found(tape: Path, what: str) -> None:
    party, change = CHANGES[what]
    assert edit(tape, party, once(change, skip=3)) == 1
    report = replay(tape)
    assert not report.equal
    assert party in report.first_difference


def test_a_state_that_was_changed_is_found(tape: Path) -> None:
    def later(state: Any) -> None:
        state.holdings[0].latest += 1

    edit_state(tape, "l0", later)
    assert "its state is not where the one before it ended" in replay(tape).first_difference


def test_an_event_that_cannot_have_happened_is_a_difference_not_a_crash(tape: Path) -> None:
    backwards = once(on_event(ev.Restarted, lambda r: replace(r, epoch=0)))
    edit(tape, "shard-0", backwards)
    assert "the core refuses it" in replay(tape).first_difference


def test_any_flipped_byte_is_found(good: Path, tmp_path: Path) -> None:
    dice = random.Random(7)
    for number in range(40):
        tape = Path(shutil.copytree(good, tmp_path / str(number)))
        _, path = dice.choice(segment_files(tape / "shard-0"))
        data = bytearray(path.read_bytes())
        at = dice.randrange(len(data))
        data[at] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        report = replay(tape / "shard-0")
        assert not report.equal or report.torn, (path, at)
        assert number % 5 or verify(tape).ok <= bool(report.torn)


def test_a_tape_cut_off_anywhere_in_its_last_entry_is_good_up_to_there(tmp_path: Path) -> None:
    world = make_world(3, num_learners=2, num_shards=1)
    recording = Recording(world, tmp_path / "run")
    world.run_for(20)
    for _, writer in recording.writers.values():
        writer.flush()
        writer._close_file()
    _, path = segment_files(tmp_path / "run" / "l1")[-1]
    whole = path.read_bytes()
    before = read_segment(path)
    last_bytes = 9 + len(before.frames[-1][1])
    for cut in range(1, last_bytes + 1):
        path.write_bytes(whole[:-cut])
        torn = read_segment(path)
        assert torn.num_entries == before.num_entries - 1
        assert bool(torn.torn) == (cut < last_bytes)
        if cut % 7 == 1 or cut == last_bytes - 1:
            replayed, verified = replay(tmp_path / "run"), verify(tmp_path / "run")
            assert replayed.equal and verified.ok
            assert replayed.torn == verified.torn
            if cut < last_bytes:
                assert str(path) in verified.torn[0]
                assert f"after entry {torn.num_entries}" in verified.torn[0]


def test_a_first_frame_that_was_half_written_is_torn(tape: Path) -> None:
    number, path = segment_files(tape / "l3")[-1]
    (path.parent / f"{number + 1:08d}.tape").write_bytes(path.read_bytes()[:20])
    report = replay(tape)
    assert report.equal and "has no header" in report.torn[0]


def test_zeros_at_the_end_are_a_torn_tail(tape: Path) -> None:
    _, path = segment_files(tape / "l3")[-1]
    path.write_bytes(path.read_bytes() + bytes(64))
    report = replay(tape)
    assert report.equal and report.torn


def test_a_segment_that_is_missing_in_the_middle_is_damage(tape: Path) -> None:
    files = segment_files(tape / "shard-0")
    files[1][1].unlink()
    report = replay(tape)
    assert not report.equal and "segments are missing" in report.damage[0]
    assert verify(tape).failed == ["tapes_are_whole"]


def test_a_tail_torn_in_the_middle_of_a_life_is_damage(tape: Path) -> None:
    _, path = segment_files(tape / "l0")[0]
    path.write_bytes(path.read_bytes()[:-3])
    assert not replay(tape).equal
    assert "tapes_are_whole" in verify(tape).failed


def test_what_is_no_tape_is_damage(tape: Path) -> None:
    _, path = segment_files(tape / "l0")[0]
    path.write_bytes(b"not a tape at all, whatever its name says")
    report = replay(tape)
    assert not report.equal and "has no header and state" in report.damage[0]
