"""Several addresses in an invite: the one that serves is found, and everybody goes there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from atoll.access.addresses import Address
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.control import ControlLink, LinkLost, LinkOpened
from atoll.ferry.door import Door, Whereabouts, door_of
from atoll.ferry.errors import LinkBrokenError
from atoll.ferry.hall import Hall
from atoll.ferry.pace import Pace
from ferry.lagoon import Lagoon

LIMIT_S = 20.0


@pytest.fixture
def two(new_lagoon: Callable[..., Lagoon]) -> tuple[Lagoon, Lagoon]:
    first, second = new_lagoon(), new_lagoon()
    second.secret = first.secret
    return first, second


@pytest.fixture
def door(two: tuple[Lagoon, Lagoon]) -> Door:
    addresses = tuple(Address("127.0.0.1", lagoon.port) for lagoon in two)
    return door_of(replace(two[0].invite, addresses=addresses))


@pytest.fixture
def bulk(door: Door) -> Iterator[BulkConnection]:
    made = BulkConnection(door, Pace())
    yield made
    made.close()


def ask(bulk: BulkConnection) -> None:
    bulk.ask(Request("GET", bulk.door.path("settings")))


def asked(lagoons: tuple[Lagoon, Lagoon], *counts: int) -> bool:
    """So many requests came to each; they are counted after they were answered."""
    for lagoon, count in zip(lagoons, counts, strict=True):
        lagoon.wait(lambda lagoon=lagoon, count=count: len(lagoon.asked) == count)  # type: ignore[misc]
    return True


def test_the_first_address_is_tried_first(two: tuple[Lagoon, Lagoon], bulk: BulkConnection) -> None:
    ask(bulk)
    assert asked(two, 1, 0)


def test_bulk_goes_to_whoever_takes_connections(
    two: tuple[Lagoon, Lagoon], bulk: BulkConnection
) -> None:
    ask(bulk)
    two[0].close()
    ask(bulk)
    ask(bulk)
    assert asked(two, 1, 2)


def test_before_joining_every_address_is_asked_until_one_answers(
    two: tuple[Lagoon, Lagoon], door: Door
) -> None:
    two[0].close()
    hall = Hall(door, time.monotonic() + LIMIT_S)
    assert hall.terms().protocol == two[1].protocol
    hall.close()


def test_control_goes_round_and_bulk_follows_it(
    two: tuple[Lagoon, Lagoon], door: Door, bulk: BulkConnection
) -> None:
    heard: list[object] = []
    link = ControlLink(door, heard.append)

    def opened() -> int:
        return len([1 for each in heard if isinstance(each, LinkOpened)])

    def connect(times: int) -> None:
        seen = len(heard)
        link.ask()
        end_s = time.monotonic() + LIMIT_S
        while opened() < times:
            assert time.monotonic() < end_s, heard
            if any(isinstance(each, LinkLost) for each in heard[seen:]):
                seen = len(heard)
                link.ask()
            time.sleep(0.01)

    connect(1)
    assert len(two[0].controls) == 1
    ask(bulk)
    two[0].close()
    connect(2)
    assert len(two[1].controls) == 1 and door.where.place == 1
    ask(bulk)
    assert asked(two, 1, 1)
    link.close(1.0)


def test_who_waits_at_a_frozen_syncer_is_sent_on_when_control_stands_elsewhere(
    two: tuple[Lagoon, Lagoon], door: Door, bulk: BulkConnection
) -> None:
    """A process that sleeps accepts connections all the same: its kernel does."""
    frozen = socket.create_server(("127.0.0.1", 0))
    addresses = (Address("127.0.0.1", frozen.getsockname()[1]), door.addresses[1])
    bulk.door = replace(door, addresses=addresses, where=Whereabouts())
    done = threading.Event()

    def task() -> None:
        with suppress(LinkBrokenError):
            ask(bulk)
        ask(bulk)  # as a transfer does: it is tried again
        done.set()

    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    reached, _ = frozen.accept()
    bulk.door.where.stands(1)
    bulk.follow()
    assert done.wait(LIMIT_S), "it hung at the frozen one"
    two[1].wait(lambda: len(two[1].asked) >= 1)
    for each in (reached, frozen):
        each.close()


def test_nobody_anywhere_names_the_address_and_why(
    two: tuple[Lagoon, Lagoon], bulk: BulkConnection
) -> None:
    for lagoon in two:
        lagoon.close()
    with pytest.raises(LinkBrokenError, match=r"127\.0\.0\.1"):
        ask(bulk)


def test_a_broken_transfer_says_nothing_against_where_control_stands() -> None:
    where = Whereabouts()
    where.leave(0, 2)
    assert where.place == 1
    where.leave(0, 2)
    assert where.place == 1, "somebody else has left there before"
    where.stands(0)
    where.leave(0, 2)
    where.found(1)
    assert where.place == 0
    where.lost(0, 2)
    assert where.place == 1
