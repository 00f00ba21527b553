"""When a standby tries, and that of two who try one wins. Whole takeovers: tests/launch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atoll.store.disk import LocalDisk
from atoll.store.errors import Fenced
from atoll.store.heartbeat import ENDED, STOPPED, heartbeat_file, read_beat
from atoll.store.store import Store
from atoll.syncer.pulse import Pulse
from atoll.syncer.standby import OVER, TRY, WAIT, OwnerWatch
from syncer.lagoon import RUN, Http, serving, settings_of, until


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def watched(root: Path) -> tuple[OwnerWatch, Clock]:
    clock = Clock()
    return OwnerWatch(root, RUN, silence_s=5.0, clock=clock), clock


def test_a_standby_waits_while_the_owner_beats_and_tries_when_it_is_silent(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as store:
        watch, clock = watched(tmp_path)
        for _ in range(10):
            store.heartbeat.beat()
            turn = watch.look()
            assert (turn.do, turn.epoch) == (WAIT, 1) and "serves the run" in turn.why
            clock.now_s += 4.9
        assert watch.look().do == WAIT
        clock.now_s += 5.0
        turn = watch.look()
        assert turn.do == TRY and "no sign of life for 10 s" in turn.why


def test_an_owner_of_another_epoch_is_given_as_long_again(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as old:
        old.heartbeat.beat()
        watch, clock = watched(tmp_path)
        watch.look()
        clock.now_s += 60.0
        with Store.open(tmp_path, RUN):
            turn = watch.look()
            assert (turn.do, turn.epoch) == (WAIT, 2)
            old.heartbeat.beat()
            clock.now_s += 5.0
            assert watch.look().do == TRY, "what the old owner says does not count"


@pytest.mark.parametrize(("state", "do"), [(STOPPED, TRY), (ENDED, OVER)])
def test_an_owner_that_stops_says_whether_there_is_anything_left_to_do(
    tmp_path: Path, state: str, do: str
) -> None:
    with Store.create(tmp_path, RUN) as store:
        store.heartbeat.beat()
        store.heartbeat.beat(state)
        turn = watched(tmp_path)[0].look()
        assert turn.do == do and "has stopped" in turn.why


def test_a_run_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    assert watched(tmp_path)[0].look().do == WAIT


def test_of_two_that_try_after_the_same_owner_one_wins(tmp_path: Path) -> None:
    Store.create(tmp_path, RUN).close()
    with Store.open(tmp_path, RUN, after_epoch=1) as winner:
        assert winner.epoch == 2
        with pytest.raises(Fenced, match=r"now belongs to epoch 2 .*waited for the end of epoch 1"):
            Store.open(tmp_path, RUN, after_epoch=1)
        winner.check_fence()


def test_a_pulse_beats_from_the_start_and_hears_that_the_run_is_lost(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as store:
        lost, heard = threading.Event(), list[Exception]()
        pulse = Pulse(store, lambda error: (heard.append(error), lost.set()))  # type: ignore[arg-type,func-returns-value]
        pulse.start()
        first = read_beat(tmp_path / RUN, 1)
        assert first is not None and first.count == 1
        with Store.open(tmp_path, RUN):
            assert lost.wait(10.0) and isinstance(heard[0], Fenced)
            pulse.stop()
        last = read_beat(tmp_path / RUN, 1)
        assert last is not None and last.state != STOPPED, "a fenced syncer has nothing to say"


TOO_LONG = "x" * 300
"""A link to it is a path that is neither there nor not there: looking at it is an error."""


@contextmanager
def out_of_sight(run: Path) -> Iterator[None]:
    aside = run.with_name("aside")
    run.rename(aside)
    run.symlink_to(TOO_LONG)
    try:
        yield
    finally:
        run.unlink()
        aside.rename(run)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.syncer.pulse.BEAT_S", 0.02)


def count_of(store: Store, root: Path) -> int:
    beat = read_beat(root / RUN, store.epoch)
    return beat.count if beat is not None else 0


@contextmanager
def beating(store: Store, heard: list[Exception]) -> Iterator[None]:
    pulse = Pulse(store, heard.append)
    pulse.start()
    try:
        yield
    finally:
        pulse.stop()


def test_a_disk_that_cannot_be_looked_at_is_waited_for_and_is_no_silence(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as store:
        store.heartbeat.beat()
        watch, clock = watched(tmp_path)
        assert watch.look().do == WAIT
        clock.now_s += 60.0
        with out_of_sight(tmp_path / RUN):
            turn = watch.look()
        assert turn.do == WAIT and "cannot see who owns the run" in turn.why
        assert watch.look().do == WAIT, "nobody could see whether it beat"
        clock.now_s += 5.0
        assert watch.look().do == TRY


@pytest.mark.usefixtures("quick")
def test_a_pulse_goes_on_after_a_disk_that_could_not_be_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = list[Exception]()
    with Store.create(tmp_path, RUN) as store, beating(store, heard):
        with out_of_sight(tmp_path / RUN):
            until(lambda: "cannot see who owns" in caplog.text, "the failed look")
        before = count_of(store, tmp_path)
        until(lambda: count_of(store, tmp_path) > before, "a beat")
        assert not heard


@pytest.mark.usefixtures("quick")
def test_a_pulse_beats_while_a_commit_is_under_way(tmp_path: Path) -> None:
    busy, free = threading.Event(), threading.Event()

    class Busy(LocalDisk):
        def fsync_dir(self, path: Path) -> None:
            if busy.is_set() and path.name == RUN:
                assert free.wait(60.0)
            super().fsync_dir(path)

    heard = list[Exception]()
    with Store.create(tmp_path, RUN, disk=Busy()) as store, beating(store, heard):
        lsn = store.commit_record(1, {})
        busy.set()
        commit = threading.Thread(target=store.commit_snapshot, args=({}, {}, lsn))
        commit.start()
        try:
            until(lambda: (tmp_path / RUN / "manifest-000002.json").exists(), "the commit")
            before = count_of(store, tmp_path)
            until(lambda: count_of(store, tmp_path) > before + 3, "beats")
            assert commit.is_alive()
        finally:
            free.set()
            commit.join()
        assert not heard


@pytest.mark.usefixtures("quick")
def test_a_pulse_that_cannot_go_on_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a mistake of ours")

    heard = list[Exception]()
    with Store.create(tmp_path, RUN) as store:
        monkeypatch.setattr(store, "glance_at_fence", fail)
        with beating(store, heard):
            until(lambda: heard, "the mistake")
    assert isinstance(heard[0], KeyError)
    last = read_beat(tmp_path / RUN, 1)
    assert last is not None and last.state == STOPPED, "the next syncer need not wait"


def test_a_beat_needs_no_room_and_survives_what_cannot_be_read(tmp_path: Path) -> None:
    with Store.create(tmp_path, RUN) as store:
        store.heartbeat.beat()
        path = heartbeat_file(tmp_path / RUN, 1)
        size_bytes = path.stat().st_size
        store.heartbeat.beat()
        assert path.stat().st_size == size_bytes
        path.write_bytes(b"{torn")
        assert read_beat(tmp_path / RUN, 1) is None
        assert watched(tmp_path)[0].look().do == WAIT


def test_a_service_beats_while_it_serves_and_says_when_it_stops(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True) as service:
        first = read_beat(tmp_path / RUN, 1)
        assert first is not None
        until(lambda: (read_beat(tmp_path / RUN, 1) or first).count > first.count, "a beat")
        http = Http(service.address.port)
        assert http.ask("GET", "/healthz").status == 200
        http.close()
    last = read_beat(tmp_path / RUN, 1)
    assert last is not None and last.state == STOPPED
