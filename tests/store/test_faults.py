"""A stop, an error, a full disk at every single operation: nothing shown is lost, nothing is half.

The script below goes through every kind of change the store makes. It is first run once to count
its operations, then once for each of them with a fault at that operation.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atoll.store.disk import Disk
from atoll.store.errors import DiskFailed, DiskFull, Fenced, RunNotFound
from atoll.store.faults import NEVER, UNLIMITED_BYTES, Crashed, FaultyDisk
from atoll.store.runs import read_run
from atoll.store.store import Store
from store.model import RUN, SMALL, commit, faulty, snapshot, values_in


class Script:
    """Two lives of a store; `shown` is what was acknowledged, `tried` the value under way."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self.disk = disk
        self.shown: list[int] = []
        self.tried: list[int] = []

    def run(self) -> None:
        store = Store.create(self.root, RUN, SMALL, self.disk)
        self._work(store)
        store.close()
        store = Store.open(self.root, RUN, SMALL, self.disk)
        assert values_in(store.recover()) == self.shown
        self._work(store)
        store.close()

    def _work(self, store: Store) -> None:
        for number in range(10):
            self.tried = [len(self.shown)]
            commit(store, len(self.shown))
            self.shown, self.tried = self.shown + self.tried, []
            if number % 3 == 2:
                snapshot(store, self.shown, pinned=number == 5)

    def check(self) -> None:
        """What a new owner, on a good disk, finds, and that it can go on."""
        try:
            store = Store.open(self.root, RUN, SMALL, faulty(self.root.parent))
        except RunNotFound:
            assert self.shown == []
            return
        found = values_in(store.recover())
        assert found in (self.shown, self.shown + self.tried)
        commit(store, 55)
        snapshot(store, [*found, 55])
        commit(store, 66)
        store.close()
        run = self.root / RUN
        assert values_in(read_run(self.root, RUN)) == [*found, 55, 66]
        assert not [path for path in run.rglob("*") if "tmp" in path.name]


def operations_of_script(tmp_path: Path) -> list[str]:
    (tmp_path / "count").mkdir()
    disk = faulty(tmp_path / "count")
    script = Script(tmp_path / "count" / "root", disk)
    script.run()
    script.check()
    return disk.operations


def crash_everywhere(tmp_path: Path, after: Callable[[FaultyDisk], None], hard_links: bool) -> None:
    total = len(operations_of_script(tmp_path))
    assert total > 150
    for at in range(1, total + 1):
        home = tmp_path / str(at)
        home.mkdir()
        disk = faulty(home, crash_at=at, hard_links=hard_links)
        script = Script(home / "root", disk)
        with pytest.raises(Crashed):
            script.run()
        after(disk)
        script.check()


@pytest.mark.parametrize("hard_links", [True, False])
def test_killed_at_every_operation(tmp_path: Path, hard_links: bool) -> None:
    crash_everywhere(tmp_path, FaultyDisk.give_back_descriptors, hard_links)


@pytest.mark.parametrize("unsynced", ["lost", "garbage"])
def test_power_lost_at_every_operation(tmp_path: Path, unsynced: str) -> None:
    crash_everywhere(tmp_path, lambda disk: disk.lose_power(unsynced), hard_links=True)


def retried(action: Callable[[], object], cure: Callable[[], None]) -> None:
    """Once more after the fault, as a syncer does: an error means that nothing was committed."""
    try:
        action()
    except (DiskFull, DiskFailed):
        cure()
        action()


def work_with_retries(store: Store, values: list[int], cure: Callable[[], None]) -> None:
    for number in range(10):
        value = len(values)
        retried(lambda value=value: commit(store, value), cure)  # type: ignore[misc]
        values.append(value)
        if number % 3 == 2:
            retried(lambda: snapshot(store, values), cure)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_operation_is_typed_and_the_store_goes_on(
    tmp_path: Path, code: int
) -> None:
    at, finished = 0, False
    while not finished:
        at += 1
        home = tmp_path / str(at)
        home.mkdir()
        disk = faulty(home)
        store = Store.create(home / "root", RUN, SMALL, disk)
        first = disk.num_operations
        disk.faults.error_at, disk.faults.error_code = first + at, code
        values: list[int] = []
        work_with_retries(store, values, lambda: None)
        finished = disk.num_operations < first + at
        assert values_in(store.recover()) == values == values_in(read_run(home / "root", RUN))
        store.close()
        with Store.open(home / "root", RUN, SMALL, faulty(home)) as again:
            assert values_in(again.recover()) == values
    assert at > 90


def test_an_error_at_every_operation_of_a_takeover_leaves_a_run_to_take_over(
    tmp_path: Path,
) -> None:
    at, opened = 0, False
    while not opened:
        at += 1
        home = tmp_path / str(at)
        home.mkdir()
        with Store.create(home / "root", RUN, SMALL, faulty(home)) as store:
            work_with_retries(store, [], lambda: None)
        disk = faulty(home, error_at=at)
        try:
            Store.open(home / "root", RUN, SMALL, disk).close()
            opened = disk.num_operations < at
        except DiskFailed:
            assert disk.num_operations >= at
        with Store.open(home / "root", RUN, SMALL, faulty(home)) as again:
            assert values_in(again.recover()) == list(range(10))
    assert at > 8


def test_a_disk_that_fills_at_every_hundred_bytes_then_is_freed(tmp_path: Path) -> None:
    for room_bytes in range(0, 6000, 100):
        home = tmp_path / str(room_bytes)
        home.mkdir()
        disk = faulty(home)
        store = Store.create(home / "root", RUN, SMALL, disk)
        disk.faults.room_bytes = room_bytes
        values: list[int] = []

        def free(disk: FaultyDisk = disk) -> None:
            disk.faults.room_bytes = UNLIMITED_BYTES

        work_with_retries(store, values, free)
        assert values_in(store.recover()) == values == list(range(10))
        store.close()


def test_a_full_disk_says_how_much_it_lacks_and_keeps_one_file(tmp_path: Path) -> None:
    disk = faulty(tmp_path)
    store = Store.create(tmp_path / "root", RUN, SMALL, disk)
    commit(store, 1)
    disk.faults.room_bytes = 20
    log = tmp_path / "root" / RUN / "log"
    before = [path.stat().st_size for path in log.iterdir()]
    for _ in range(5):
        with pytest.raises(DiskFull, match=r"bytes needed, 20 free") as caught:
            commit(store, 2)
        assert caught.value.needed_bytes > 20 and caught.value.free_bytes == 20
        assert [path.stat().st_size for path in log.iterdir()] == before
    assert values_in(store.recover()) == [1]
    disk.faults.room_bytes = UNLIMITED_BYTES
    commit(store, 2)
    assert values_in(store.recover()) == [1, 2]
    store.close()


def test_a_snapshot_leaves_the_log_its_reserve(tmp_path: Path) -> None:
    disk = faulty(tmp_path)
    with Store.create(tmp_path / "root", RUN, disk=disk) as store:
        commit(store, 1)
        disk.faults.room_bytes = 1 << 20
        with pytest.raises(DiskFull):
            snapshot(store, [1])
        commit(store, 2)


def test_a_snapshot_that_was_not_committed_is_removed_before_the_next(tmp_path: Path) -> None:
    disk = faulty(tmp_path)
    with Store.create(tmp_path / "root", RUN, SMALL, disk) as store:
        commit(store, 1)
        before = disk.num_operations
        snapshot(store, [1])
        links = [at for at, what in enumerate(disk.operations, 1) if what.startswith("link")]
        commit(store, 2)
        disk.faults.error_at = disk.num_operations + links[-1] - before
        with pytest.raises(DiskFailed):
            snapshot(store, [1, 2])
        assert disk.operations[disk.faults.error_at - 1].startswith("link")
        before = disk.num_operations
        snapshot(store, [1, 2])
        first_two = disk.operations[before : before + 2]
        assert all(what.startswith("unlink e000001-l000000000002-n0002") for what in first_two)
        assert values_in(store.recover()) == [1, 2]


def test_a_record_that_failed_after_it_was_whole_is_void_once_another_took_its_place(
    tmp_path: Path,
) -> None:
    disk = faulty(tmp_path)
    store = Store.create(tmp_path / "root", RUN, SMALL, disk)
    commit(store, 1)
    disk.faults.error_at = disk.num_operations + 4
    with pytest.raises(DiskFailed):
        commit(store, 98)
    assert disk.operations[-1] == "fsync"
    assert commit(store, 2) == 2
    store.close()
    with Store.open(tmp_path / "root", RUN, SMALL) as again:
        assert values_in(again.recover()) == [1, 2]


def test_a_record_that_was_written_and_not_fsynced_lasts_once_it_was_taken_over(
    tmp_path: Path,
) -> None:
    disk = faulty(tmp_path)
    store = Store.create(tmp_path / "root", RUN, SMALL, disk)
    commit(store, 1)
    disk.faults.crash_at = disk.num_operations + 4
    with pytest.raises(Crashed, match="fsync"):
        commit(store, 2)
    disk.faults.crash_at = NEVER
    store.close()
    with Store.open(tmp_path / "root", RUN, SMALL, disk) as again:
        assert values_in(again.recover()) == [1, 2]
    disk.lose_power("lost")
    assert values_in(read_run(tmp_path / "root", RUN)) == [1, 2]


class Lives(RuleBasedStateMachine):
    """Owners append, snapshot, crash, are taken over and wake up, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []
        self.maybe: list[int] = []
        self.next_value = 0
        self.sleepers: list[Store] = []

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.home = Path(self.directory.name)
        self.disk = faulty(self.home)
        self.store = Store.create(self.home / "root", RUN, SMALL, self.disk)

    def _new_value(self) -> int:
        self.next_value += 1
        return self.next_value

    @rule(count=st.integers(1, 6))
    def append(self, count: int) -> None:
        for _ in range(count):
            value = self._new_value()
            commit(self.store, value)
            self.shown.append(value)

    @rule(pinned=st.booleans())
    def take_snapshot(self, pinned: bool) -> None:
        snapshot(self.store, self.shown, pinned)

    @rule(steps=st.integers(1, 30), power=st.sampled_from(["kept", "lost", "garbage"]))
    def crash(self, steps: int, power: str) -> None:
        self.disk.faults.crash_at = self.disk.num_operations + steps
        value = self._new_value()
        try:
            while True:
                commit(self.store, value)
                self.shown.append(value)
                value = self._new_value()
                if value % 2:
                    snapshot(self.store, self.shown)
        except Crashed:
            self.disk.faults.crash_at = NEVER
        if power == "kept":
            self.store.close()  # its descriptors; it commits nothing
        else:
            self.disk.lose_power(power)  # of everybody
            self.sleepers.clear()
        self._open()
        found = values_in(self.store.recover())
        assert found in (self.shown, [*self.shown, value])
        self.shown = found

    @rule()
    def take_over(self) -> None:
        self.sleepers.append(self.store)
        self._open()

    @precondition(lambda self: self.sleepers)
    @rule(which=st.integers(0, 9))
    def wake_up(self, which: int) -> None:
        sleeper = self.sleepers[which % len(self.sleepers)]
        with pytest.raises(Fenced):
            commit(sleeper, 9999)
        with pytest.raises(Fenced):
            sleeper.commit_snapshot({}, {"values": [9999]}, sleeper.last_lsn)

    def _open(self) -> None:
        self.store = Store.open(self.home / "root", RUN, SMALL, self.disk)

    @invariant()
    def recovery_gives_what_was_shown(self) -> None:
        if hasattr(self, "store"):
            assert values_in(self.store.recover()) == self.shown
            assert values_in(read_run(self.home / "root", RUN)) == self.shown

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for store in (*self.sleepers, self.store):
                store.close()
            self.directory.cleanup()


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
