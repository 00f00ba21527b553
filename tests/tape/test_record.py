"""Writing tapes: segments that stand alone, cheap, and never in the run's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.tape.format import ENTRY, BaseNote, Header, MergeNote, segment_files
from atoll.tape.payloads import ALL, PayloadFolder, digest_of
from atoll.tape.read import Entry, StateCheck, TapeError, read_party, read_tapes
from atoll.tape.record import TapeSettings, TapeWriter
from tape.recorded import stormy_run

SETTINGS = ProtocolSettings(P=2, H=4)


def shard_tape(root: Path, settings: TapeSettings | None = None) -> tuple[ShardCore, TapeWriter]:
    core = ShardCore(SETTINGS, 0, 1)
    header = Header(party="shard-0", role="shard", settings=SETTINGS)
    writer = TapeWriter(root, header, core, settings)
    assert writer.open() == ""
    return core, writer


def feed(core: ShardCore, writer: TapeWriter, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        event = msg.Admitted(f"l{number}", number + 1)
        assert writer.record(number / 8, event, core.handle(number / 8, event)) == ""


def test_entries_come_back_in_order_with_times_and_effects(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path)
    seen = []
    for now_s, event in ((0.1, msg.Admitted("lab", 1)), (0.3, ev.Tick()), (1 / 3, object)):
        if event is not object:
            effects = core.handle(now_s, event)
            seen.append((now_s, event, effects))
            writer.record(now_s, event, effects)
    event = ev.InitialStored(1, "digest")
    effects = core.handle(0.5, event)
    seen.append((0.5, event, effects))
    writer.record(0.5, event, effects)
    assert writer.close() == ""
    (segment,) = read_party(tmp_path / "shard-0").segments
    entries = [item for item in segment.items() if isinstance(item, Entry)]
    assert [(e.now_s, e.event, e.effects) for e in entries] == seen
    assert segment.ended and not segment.torn and segment.header.settings == SETTINGS


def test_segments_are_begun_anew_and_old_ones_go(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path, TapeSettings(segment_entries=5, keep_segments=2))
    feed(core, writer, 23)
    writer.close()
    tape = read_party(tmp_path / "shard-0")
    assert [segment.header.segment for segment in tape.segments] == [4, 5]
    assert [segment.header.entries_before for segment in tape.segments] == [15, 20]
    assert sorted(tape.segments[0].state.seats) == sorted(f"l{n}" for n in range(15))
    assert not tape.damage and not tape.torn


def test_a_segment_is_full_by_bytes_too(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path, TapeSettings(segment_bytes=1000))
    feed(core, writer, 40)
    writer.close()
    assert len(segment_files(tmp_path / "shard-0")) > 2


def test_a_process_that_comes_back_goes_on_with_the_next_segment(tmp_path: Path) -> None:
    for _ in range(2):
        core, writer = shard_tape(tmp_path)
        feed(core, writer, 3)
        writer.close()
    lives = read_party(tmp_path / "shard-0").lives()
    assert [[s.header.segment for s in life] for life in lives] == [[1], [2]]


def test_what_is_held_back_is_written_on_demand(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path)
    feed(core, writer, 3)
    (segment,) = read_party(tmp_path / "shard-0").segments
    assert segment.num_entries == 0
    writer.flush()
    (segment,) = read_party(tmp_path / "shard-0").segments
    assert segment.num_entries == 3 and not segment.torn
    writer.close()


class FullDisk:
    """A file on a disk that has no room."""

    def write(self, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_ends_the_tape_and_says_so_once(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path, TapeSettings(buffer_bytes=1))
    feed(core, writer, 2)
    writer._close_file()
    writer._file = FullDisk()  # type: ignore[assignment]
    event = msg.Admitted("lab", 9)
    reason = writer.record(1.0, event, core.handle(1.0, event))
    assert "No space left" in reason and "the run goes on" in reason
    assert writer.stopped == reason
    assert writer.record(2.0, event, core.handle(2.0, event)) == ""
    assert writer.flush() == writer.close() == ""
    (segment,) = read_party(tmp_path / "shard-0").segments
    assert segment.num_entries == 2


def test_a_directory_that_cannot_be_made_ends_the_tape(tmp_path: Path) -> None:
    (tmp_path / "tapes").write_text("a file")
    header = Header(party="shard-0", role="shard", settings=SETTINGS)
    writer = TapeWriter(tmp_path / "tapes", header, ShardCore(SETTINGS, 0, 1))
    assert "ends here" in writer.open()
    assert writer.record(0.0, ev.Tick(), []) == ""


def test_an_event_that_cannot_be_kept_ends_the_tape(tmp_path: Path) -> None:
    _, writer = shard_tape(tmp_path)
    assert "not a record" in writer.record(0.0, object(), [])
    _, writer = shard_tape(tmp_path)
    assert "ends here" in writer.record(0.0, msg.Admitted("lab", 1 << 70), [])


def test_payloads_are_kept_for_the_last_merges_only(tmp_path: Path) -> None:
    folder = PayloadFolder(tmp_path / "payloads", keep_merges=2)
    folder.open()
    bodies = [[b"a", b"shared"], [b"b", b"shared"], [b"c", b"c2"], [b"d", b"d2"]]
    for each in bodies[:2]:
        folder.keep(named(each))
    assert {p.name for p in folder._directory.iterdir()} == set(
        map(digest_of, (b"a", b"b", b"shared"))
    )
    for each in bodies[2:]:
        folder.keep(named(each))
    assert {p.name for p in folder._directory.iterdir()} == set(
        map(digest_of, (b"c", b"c2", b"d", b"d2"))
    )
    again = PayloadFolder(tmp_path / "payloads", keep_merges=1)
    again.open()
    again.keep(named([b"e"]))
    assert [p.name for p in again._directory.iterdir()] == [digest_of(b"e")]


def named(bodies: list[bytes]) -> list[tuple[str, bytes]]:
    return [(digest_of(body), body) for body in bodies]


@pytest.mark.parametrize("keep", [0, ALL])
def test_all_payloads_or_none(tmp_path: Path, keep: int) -> None:
    folder = PayloadFolder(tmp_path / "payloads", keep)
    folder.open()
    folder.keep(named([b"one", b"two"]))
    folder.keep(named([b"three"]))
    assert (tmp_path / "payloads").exists() == (keep == ALL)
    if keep == ALL:
        assert len(list((tmp_path / "payloads").iterdir())) == 3


def test_notes_stand_between_the_events_as_they_were_given(tmp_path: Path) -> None:
    core, writer = shard_tape(tmp_path)
    base = BaseNote(fragment=0, version=0, published="p", payload="q")
    assert writer.note(base) == ""
    feed(core, writer, 1)
    contributions = (("l0.1.1", "bf16", "one"), ("l1.2.1", "bf16", "two"))
    note = MergeNote(fragment=0, version=1, backend="eager", contributions=contributions)
    assert writer.note(note) == ""
    writer.close()
    (segment,) = read_party(tmp_path / "shard-0").segments
    found = [item for item in segment.items() if not isinstance(item, StateCheck)]
    assert found[0] == base and found[-1] == note and isinstance(found[1], Entry)


def test_no_tape_is_an_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="no directory"):
        read_tapes(tmp_path / "nowhere")
    with pytest.raises(TapeError, match="name the directory"):
        read_tapes(tmp_path)


def test_every_process_of_a_run_has_its_own_life_on_tape(tmp_path: Path) -> None:
    world = stormy_run(tmp_path, seed=5)
    tapes = {tape.party: tape for tape in read_tapes(tmp_path)}
    assert set(tapes) == {"coordinator", "shard-0", "shard-1", *world.learners}
    assert [len(tapes[party].lives()) for party in ("l0", "l1", "shard-0")] == [1, 2, 2]
    events = sum(s.num_entries for tape in tapes.values() for s in tape.segments)
    assert events == world.counts.events
    assert all(kind == ENTRY or payload for s in tapes["l0"].segments
               for kind, payload in s.frames[:-1])  # fmt: skip
