"""The store as its owner uses it: create, commit, recover, retain, refuse."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import torch

from atoll.store.disk import LocalDisk
from atoll.store.errors import (
    DiskFailed,
    Fenced,
    LogDamaged,
    ManifestDamaged,
    RunExists,
    RunNotFound,
    SnapshotDamaged,
)
from atoll.store.estimate import Keeping, disk_need
from atoll.store.retention import Retention
from atoll.store.runs import read_run
from atoll.store.segments import list_segments
from atoll.store.store import Store, StoreConfig
from store.model import RUN, SMALL, commit, snapshot, values_in

NUM_REAL_APPENDS = 30


def log_files(root: Path) -> list[Path]:
    log = root / RUN / "log"
    return [log / segment.file for segment in list_segments(log)]


def test_a_run_that_is_not_there_is_refused_and_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"'reef'.*holds no run.*on purpose"):
        Store.open(tmp_path, RUN)
    assert not list(tmp_path.iterdir())
    Store.create(tmp_path, "lagoon").close()
    with pytest.raises(RunNotFound, match="it holds lagoon"):
        Store.open(tmp_path, RUN)
    with pytest.raises(RunNotFound):
        read_run(tmp_path, RUN)


def test_a_run_that_is_there_is_not_started_again(tmp_path: Path) -> None:
    Store.create(tmp_path, RUN).close()
    with pytest.raises(RunExists, match="nothing is ever overwritten"):
        Store.create(tmp_path, RUN)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "-x", "x" * 65, "a b", "reef\n"])
def test_a_run_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="run name"):
        Store.create(tmp_path, name)


def test_records_and_snapshots_come_back_over_many_lives(tmp_path: Path) -> None:
    store, values = Store.create(tmp_path, RUN, SMALL), []
    for life in range(5):
        for number in range(7):
            values.append(life * 10 + number)
            assert commit(store, values[-1]) == len(values) == store.last_lsn
            if number == 4:
                snapshot(store, values)
        store.close()
        assert values_in(read_run(tmp_path, RUN)) == values
        store = Store.open(tmp_path, RUN, SMALL)
        assert store.epoch == life + 2 and store.notes == ()
        assert values_in(store.recover()) == values
    store.close()


def test_records_appended_while_a_snapshot_is_written_replay_on_top(tmp_path: Path) -> None:
    store, values = Store.create(tmp_path, RUN, SMALL), []

    def take() -> None:
        for _ in range(4):
            held = list(range(store.last_lsn))
            tensors = {"values": torch.tensor(held, dtype=torch.int64)}
            store.commit_snapshot(tensors, {"values": held}, len(held))

    thread = threading.Thread(target=take)
    thread.start()
    for value in range(40):
        commit(store, value)
        values.append(value)
    thread.join()
    store.close()
    assert values_in(read_run(tmp_path, RUN)) == values


def test_a_snapshot_of_records_that_are_not_durable_is_our_mistake(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN, SMALL) as store:
        commit(store, 1)
        with pytest.raises(ValueError, match="last durable record"):
            store.commit_snapshot({}, None, 2)
        snapshot(store, [1])
        with pytest.raises(ValueError, match="newest snapshot"):
            store.commit_snapshot({}, None, 0)


def test_retention_keeps_the_last_and_the_pinned_and_drops_old_log(tmp_path: Path) -> None:
    store, values = Store.create(tmp_path, RUN, SMALL), []
    for value in range(60):
        values.append(value)
        commit(store, value)
        if value % 10 == 9:
            snapshot(store, values, pinned=value == 19)
    assert [ref.upto_lsn for ref in store.snapshots] == [20, 50, 60]
    names = {path.name for path in (tmp_path / RUN / "snapshots").iterdir()}
    assert names == {
        f"{ref.name}.{kind}" for ref in store.snapshots for kind in ("json", "safetensors")
    }
    first = list_segments(tmp_path / RUN / "log")[0]
    assert 40 < first.first_lsn <= 51
    store.close()
    assert values_in(read_run(tmp_path, RUN)) == values


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_behind_a_damaged_snapshot_the_one_before_and_its_log_still_give_all(
    tmp_path: Path, kind: str
) -> None:
    store, values = Store.create(tmp_path, RUN, SMALL), []
    for value in range(35):
        values.append(value)
        commit(store, value)
        if value % 8 == 7:
            snapshot(store, values)
    store.close()
    path = tmp_path / RUN / "snapshots" / f"{store.snapshots[-1].name}.{kind}"
    path.write_bytes(path.read_bytes()[:-1])
    with Store.open(tmp_path, RUN, SMALL) as again:
        recovered = again.recover()
        assert values_in(recovered) == values and recovered.snapshot_lsn == 24
        assert str(path) in recovered.notes[0]


def test_with_every_snapshot_damaged_recovery_is_an_error(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN, SMALL) as store:
        commit(store, 1)
        snapshot(store, [1])
    for path in (tmp_path / RUN / "snapshots").glob("*.json"):
        path.write_bytes(b"{}")
    with Store.open(tmp_path, RUN, SMALL) as again, pytest.raises(SnapshotDamaged):
        again.recover()


def test_a_torn_tail_is_cut_at_takeover_and_never_read_again(tmp_path: Path) -> None:
    store = Store.create(tmp_path, RUN)
    for value in (1, 2, 3):
        commit(store, value)
    store.close()
    (file,) = log_files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with Store.open(tmp_path, RUN) as again:
        assert len(again.notes) == 1 and "torn append" in again.notes[0]
        assert values_in(again.recover()) == [1, 2]
        commit(again, 4)
    file.write_bytes(whole)  # what an old owner writes late
    with Store.open(tmp_path, RUN) as third:
        assert third.notes == ()
        assert values_in(third.recover()) == [1, 2, 4]


def test_a_lost_log_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN, SMALL) as store:
        for value in range(12):
            commit(store, value)
    middle = log_files(tmp_path)[1]
    Store.open(tmp_path, RUN, SMALL).close()
    middle.unlink()
    with Store.open(tmp_path, RUN, SMALL) as again, pytest.raises(LogDamaged, match=middle.name):
        list(again.recover().records())


def test_lost_records_at_the_front_are_an_error_not_a_shorter_run(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN, SMALL) as store:
        for value in range(12):
            commit(store, value)
    log_files(tmp_path)[0].unlink()
    with pytest.raises(LogDamaged, match="records 1 to 12 are missing"):
        list(read_run(tmp_path, RUN).records())


def test_a_log_that_ends_before_its_snapshot_is_refused(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as store:
        commit(store, 1)
        snapshot(store, [1])
    (file,) = log_files(tmp_path)
    os.truncate(file, 10)
    with pytest.raises(LogDamaged, match="record 1 was durable once"):
        Store.open(tmp_path, RUN)


def test_two_owners_fence_each_other_and_only_shown_records_count(tmp_path: Path) -> None:
    old = Store.create(tmp_path, RUN, SMALL)
    commit(old, 1)
    snapshot(old, [1])
    new = Store.open(tmp_path, RUN, SMALL)
    commit(new, 2)
    for attempt in (
        lambda: commit(old, 99),
        lambda: commit(old, 98),
        lambda: old.commit_snapshot({}, {"values": []}, 1),
        old.check_fence,
    ):
        with pytest.raises(Fenced, match="must exit"):
            attempt()
    commit(new, 3)
    old.close()
    third = Store.open(tmp_path, RUN, SMALL)
    with pytest.raises(Fenced):
        commit(new, 97)
    assert values_in(third.recover()) == [1, 2, 3]
    assert (old.epoch, third.epoch) == (1, 3)
    new.close()
    third.close()


def test_an_owner_replaced_while_it_writes_a_snapshot_is_fenced(tmp_path: Path) -> None:
    takers: list[Store] = []

    class Replaced(LocalDisk):
        def rename(self, source: Path, target: Path) -> None:
            takers.append(Store.open(tmp_path, RUN, SMALL))
            super().rename(source, target)

    old = Store.create(tmp_path, RUN, SMALL, Replaced())
    commit(old, 1)
    with pytest.raises(Fenced):
        snapshot(old, [1])
    (new,) = takers
    assert "half" in "".join(new.notes) or "no manifest names it" in "".join(new.notes)
    snapshot(new, values_in(new.recover()))
    new.close()
    old.close()
    assert values_in(read_run(tmp_path, RUN)) == [1]


def test_a_takeover_that_saw_an_outdated_manifest_loses(tmp_path: Path) -> None:
    old = Store.create(tmp_path, RUN, SMALL)
    commit(old, 1)

    class Slow(LocalDisk):
        def create(self, path: Path) -> int:
            if path.name.startswith(".tmp") and not old.snapshots:
                snapshot(old, [1])
            return super().create(path)

    with pytest.raises(Fenced):
        Store.open(tmp_path, RUN, SMALL, Slow())
    commit(old, 2)
    old.close()
    assert values_in(read_run(tmp_path, RUN)) == [1, 2]


def test_a_record_shown_just_before_the_claim_is_taken_over(tmp_path: Path) -> None:
    old = Store.create(tmp_path, RUN, SMALL)

    class ShowsBeforeClaim(LocalDisk):
        def link(self, source: Path, target: Path) -> None:
            if old.last_lsn == 0:
                commit(old, 1)
            super().link(source, target)

    with Store.open(tmp_path, RUN, SMALL, ShowsBeforeClaim()) as new:
        assert values_in(new.recover()) == [1]
    old.close()


def test_the_epoch_rises_above_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    Store.create(tmp_path, RUN).close()
    Store.open(tmp_path, RUN).close()
    for number in (2, 3):
        (tmp_path / RUN / f"manifest-{number:06d}.json").write_bytes(b"")
    with Store.open(tmp_path, RUN) as store:
        assert store.epoch == 4
        assert len(store.notes) == 2


def test_a_log_newer_than_every_readable_manifest_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path, RUN).close()
    with Store.open(tmp_path, RUN) as store:
        commit(store, 1)
    for number in (2, 3):
        (tmp_path / RUN / f"manifest-{number:06d}.json").write_bytes(b"")
    with pytest.raises(ManifestDamaged, match="is of a later one"):
        Store.open(tmp_path, RUN)


def test_an_owner_that_left_no_word_is_mentioned(tmp_path: Path) -> None:
    lock = tmp_path / RUN / "owner.lock"
    Store.create(tmp_path, RUN).close()
    assert not lock.exists()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    owner = {"host": os.uname().nodename, "pid": int(child.stdout)}
    lock.write_bytes(msgspec.json.encode(owner))
    with Store.open(tmp_path, RUN) as store:
        assert "ended without closing" in store.notes[0]
    lock.write_bytes(msgspec.json.encode(owner | {"pid": os.getppid()}))
    with Store.open(tmp_path, RUN) as store:
        assert "it is fenced and will exit" in store.notes[0]


def test_nothing_on_disk_is_executable_or_open_to_others(tmp_path: Path) -> None:
    with Store.create(tmp_path / "new", RUN) as store:
        commit(store, 1)
        snapshot(store, [1])
    for path in (tmp_path / "new" / RUN).rglob("*"):
        if path.name != "owner.lock":
            assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            assert path.suffix in {".log", ".json", ".safetensors", ".lock"}


def test_the_sizes_of_a_store_are_checked() -> None:
    with pytest.raises(ValueError, match="keep_last"):
        Retention(keep_last=0)
    with pytest.raises(ValueError, match="positive sizes"):
        StoreConfig(segment_bytes=0)


def test_disk_need_of_a_known_case() -> None:
    need = disk_need(1_000_000_000, H=100, step_s=1.0, keeping=Keeping(500.0, keep_last=2))
    assert need.snapshot_bytes == 12_000_000_000
    assert need.log_bytes_per_s == 20e6
    assert need.log_bytes_per_snapshot == 10_000_000_000
    assert need.total_bytes == 66_000_000_000
    assert "66.0 GB" in need.sentence() and "20.00 MB/s" in need.sentence()
    with pytest.raises(ValueError, match="H=0"):
        disk_need(1, H=0, step_s=1.0)


APPENDER = """
import sys
from pathlib import Path
from store.model import RUN, SMALL, commit, snapshot
from atoll.store.store import Store
store, values = Store.create(Path(sys.argv[1]), RUN, SMALL), []
while True:
    values.append(len(values))
    commit(store, values[-1])
    print(values[-1], flush=True)
    if len(values) % 9 == 0:
        snapshot(store, values)
"""


def test_a_process_killed_while_it_appends_loses_nothing_it_has_shown(tmp_path: Path) -> None:
    here = Path(__file__).parent.parent
    path = os.pathsep.join([str(here), str(here.parent / "src")])
    with subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    ) as child:
        assert child.stdout is not None
        shown = [int(child.stdout.readline()) for _ in range(NUM_REAL_APPENDS)]
        child.send_signal(signal.SIGKILL)
        shown += [int(line) for line in child.stdout if line.endswith(b"\n")]
    with Store.open(tmp_path, RUN, SMALL) as store:
        values = values_in(store.recover())
        assert values[: len(shown)] == shown
        assert len(values) <= len(shown) + 1
        assert "ended without closing" in store.notes[0]
        commit(store, 1000)
        assert values_in(store.recover()) == [*values, 1000]


def test_a_record_is_not_acknowledged_where_the_path_to_the_run_is_gone(tmp_path: Path) -> None:
    with Store.create(tmp_path / "here", RUN) as owner:
        commit(owner, 0)
        (tmp_path / "here").rename(tmp_path / "there")
        with Store.open(tmp_path / "there", RUN) as other:
            with pytest.raises(DiskFailed, match="not to be seen"):
                commit(owner, 1)
            commit(other, 2)
            assert values_in(other.recover()) == [0, 2]
        (tmp_path / "there").rename(tmp_path / "here")
        with pytest.raises(Fenced):
            commit(owner, 3)


def test_a_path_that_was_gone_for_a_while_costs_nothing(tmp_path: Path) -> None:
    with Store.create(tmp_path / "here", RUN) as owner:
        commit(owner, 0)
        (tmp_path / "here").rename(tmp_path / "there")
        with pytest.raises(DiskFailed):
            commit(owner, 1)
        (tmp_path / "there").rename(tmp_path / "here")
        commit(owner, 2)
        assert values_in(owner.recover()) == [0, 2]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_snapshot_that_is_committed_stands_though_nothing_can_be_removed(
    tmp_path: Path, code: int
) -> None:
    class NoRemoval(LocalDisk):
        def unlink(self, path: Path) -> None:
            if path.suffix in (".log", ".safetensors"):
                raise OSError(code, os.strerror(code))
            super().unlink(path)

    with Store.create(tmp_path, RUN, SMALL, NoRemoval()) as store:
        for value in range(30):
            commit(store, value)
            snapshot(store, list(range(value + 1)))
        assert "could not clean up" in " ".join(store.notes)
        assert values_in(store.recover()) == list(range(30))
