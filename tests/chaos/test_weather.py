"""The storm's thread with real signals: a fault waits for its target, and is never given up."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.tokens import new_secret
from atoll.chaos.hands import Hands
from atoll.chaos.links import Links
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.chaos.weather import Storm
from atoll.launch.child import Child

LIMIT_S = 20.0


class FastClock:
    """A quarter of an hour passes between two looks: beyond all patience."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 900.0 * self.looks


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = Child("island-0", sleeper, tmp_path / "log")
    yield child
    child.stop(LIMIT_S)


@pytest.fixture
def storm_of(child: Child, tmp_path: Path) -> Iterator[Callable[[list[Fault]], Storm]]:
    """Storms on that process; they are stopped."""
    invite = Invite("r", (Address("127.0.0.1", 1),), "", new_secret())
    hands = Hands({"island-0": child}, Links(1, 0), {"island-0": 0}, invite, tmp_path, tmp_path)
    made: list[Storm] = []

    def make(faults: list[Fault]) -> Storm:
        struck: list[Struck] = []
        storm = Storm(faults, hands, struck.append, lambda *_: None, FastClock(), lambda _: 1)
        made.append(storm)
        return storm

    yield make
    for storm in made:
        storm.stop()


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_fault_waits_for_its_target_beyond_all_patience(
    child: Child, storm_of: Callable[[list[Fault]], Storm]
) -> None:
    storm = storm_of([Fault(0.0, "kill", "island-0")])
    storm.begin()
    assert isinstance(storm.clock, FastClock)
    clock = storm.clock
    wait_until(lambda: clock.looks > 10)
    assert storm.num_done == 0 and not storm.is_over
    child.start()
    wait_until(lambda: storm.is_over)
    assert storm.num_done == 1 and storm.left_out == []
    assert child.process is not None and child.process.poll() == -signal.SIGKILL


def test_what_still_waits_when_the_run_stops_was_left_out(
    storm_of: Callable[[list[Fault]], Storm],
) -> None:
    kill = Fault(0.0, "kill", "island-0")
    storm = storm_of([kill])
    storm.begin()
    storm.stop()
    assert storm.num_done == 0 and storm.left_out == [kill]
