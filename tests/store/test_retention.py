"""Which snapshots stay, and that a run can be recovered whatever of the rest is gone already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atoll.store.disk import Disk
from atoll.store.errors import LogDamaged, RunNotFound
from atoll.store.faults import Crashed, FaultyDisk
from atoll.store.manifest import SnapshotRef
from atoll.store.retention import Retention
from atoll.store.runs import read_run, read_snapshot, snapshots_in
from atoll.store.store import Store
from store.model import RUN, SMALL, commit, faulty, snapshot, values_in

EVERY = Retention(keep_last=2, every_tokens=50)
CONFIG = replace(SMALL, retention=EVERY)


def refs(*tokens: int, pinned: int = -1) -> tuple[SnapshotRef, ...]:
    """Snapshots at these tokens; the record is a tenth of them."""
    return tuple(SnapshotRef(f"s{each}", "", each // 10, each == pinned, each) for each in tokens)


def tokens_of(snapshots: tuple[SnapshotRef, ...]) -> list[int]:
    return [ref.tokens for ref in snapshots]


def test_the_newest_stay_and_the_first_after_every_so_many_tokens() -> None:
    kept = EVERY.kept(refs(10, 40, 60, 90, 110, 190, 200, 210))
    assert tokens_of(kept) == [60, 110, 190, 200, 210]
    assert tokens_of(Retention(keep_last=1).kept(refs(10, 60, 110))) == [110]


def test_what_is_kept_does_not_depend_on_when_it_was_looked_at() -> None:
    series = refs(*range(10, 500, 20))
    one_by_one: tuple[SnapshotRef, ...] = ()
    for ref in series:
        one_by_one = EVERY.kept((*one_by_one, ref))
    assert one_by_one == EVERY.kept(series)


def test_pinned_snapshots_stay_as_long_as_they_are_named() -> None:
    pinned = replace(EVERY, pinned=frozenset({4}))
    assert tokens_of(pinned.kept(refs(10, 40, 90, 95, 99)))[0] == 40
    assert EVERY.reason(refs(40)[0], refs(40, 90, 95)) == ""
    assert pinned.reason(refs(40)[0], refs(40, 90, 95)) == "pinned"
    assert EVERY.reason(refs(40, pinned=40)[0], refs(60, 70, 80)) == "pinned"


def test_one_is_due_when_the_run_has_come_to_the_next_mark() -> None:
    assert EVERY.is_due(40, 50) and EVERY.is_due(40, 170)
    assert not EVERY.is_due(50, 99) and not Retention().is_due(0, 10**9)


def work(root: Path, disk: Disk, shown: list[int]) -> None:
    """Two lives with a snapshot after every other record."""
    for life in range(2):
        first = life == 0
        store = (Store.create if first else Store.open)(root, RUN, CONFIG, disk)
        for _ in range(12):
            value = len(shown)
            commit(store, value)
            shown.append(value)
            if value % 2:
                snapshot(store, shown)
        store.close()


def check(root: Path, shown: list[int]) -> None:
    """What is named can be read, and the run recovered, by whoever looks and whoever takes over."""
    for ref in snapshots_in(root, RUN):
        values = read_snapshot(root, RUN, ref).tensors["values"].tolist()
        assert values == list(range(len(values))) and 10 * len(values) == ref.tokens
    found = values_in(read_run(root, RUN))
    assert found[: len(shown)] == shown and len(found) <= len(shown) + 1
    with Store.open(root, RUN, CONFIG, faulty(root.parent)) as store:
        assert values_in(store.recover()) == found
        snapshot(store, found)
        kept = store.snapshots
    assert kept == EVERY.kept(kept)
    files = {path.stem for path in (root / RUN / "snapshots").iterdir()}
    assert files == {ref.name for ref in kept}


def test_marks_are_kept_for_good_and_the_log_goes_all_the_same(tmp_path: Path) -> None:
    disk, shown = faulty(tmp_path), list[int]()
    work(tmp_path / "root", disk, shown)
    check(tmp_path / "root", shown)
    kept = tokens_of(snapshots_in(tmp_path / "root", RUN))
    assert kept[:4] == [60, 100, 160, 200] and kept[-1] == 240
    with pytest.raises(LogDamaged):  # the first records' log files were removed
        values_in(replace(read_run(tmp_path / "root", RUN), snapshot_lsn=0, state=b"null"))


def removals(tmp_path: Path) -> list[int]:
    """The operations that remove a file of the log or of a snapshot."""
    home = tmp_path / "count"
    home.mkdir()
    disk = faulty(home)
    work(home / "root", disk, [])
    suffixes = (".log", ".safetensors", ".json")
    found = enumerate(disk.operations, start=1)
    return [at for at, what in found if what.startswith("unlink e") and what.endswith(suffixes)]


@pytest.mark.parametrize("power", ["kept", "lost"])
def test_a_crash_in_the_middle_of_a_removal_leaves_a_run_to_go_on_with(
    tmp_path: Path, power: str
) -> None:
    at_all = removals(tmp_path)
    assert len(at_all) > 15
    for at in at_all:
        home = tmp_path / str(at)
        home.mkdir()
        disk: FaultyDisk = faulty(home, crash_at=at)
        shown: list[int] = []
        with pytest.raises(Crashed):
            work(home / "root", disk, shown)
        disk.lose_power("lost") if power == "lost" else disk.give_back_descriptors()
        check(home / "root", shown)


def test_a_pin_that_names_nothing_is_said(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN, CONFIG) as store:
        commit(store, 0)
        snapshot(store, [0])
    pinned = replace(CONFIG, retention=replace(EVERY, pinned=frozenset({1, 77})))
    with Store.open(tmp_path, RUN, pinned) as store:
        assert "no snapshot 77 to pin; kept are 1" in " ".join(store.notes)
        for value in range(1, 9):
            commit(store, value)
            snapshot(store, list(range(value + 1)))
        assert store.snapshots[0].upto_lsn == 1
    with Store.open(tmp_path, RUN, CONFIG) as store:
        commit(store, 9)
        snapshot(store, list(range(10)))
        assert store.snapshots[0].upto_lsn > 1


def test_snapshots_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        snapshots_in(tmp_path, RUN)
