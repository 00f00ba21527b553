"""Links that are shaped: by what arrives and what does not, never by how long it took."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from atoll.chaos.links import Links
from atoll.chaos.proxy import CREDIT_S, Direction, Shape

LIMIT_S = 20.0
"""Every wait in here ends, or the test fails."""
SILENCE_S = 0.3
"""So long nothing may arrive where nothing must."""
CUT = Shape(cut=True)


class Echo:
    """Sends back what comes; `heard` holds all bytes, `ends` counts connections that ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.heard = bytearray()
        self.ends = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1 << 16):
                self.heard += data
                connection.sendall(data)
        except OSError:
            pass
        connection.close()
        self.ends.release()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def links(echo: Echo) -> Iterator[Links]:
    ways = Links(echo.port, 2)
    ways.open()
    yield ways
    ways.close()


@pytest.fixture
def dial(links: Links) -> Iterator[Callable[[int], socket.socket]]:
    opened: list[socket.socket] = []

    def connect(number: int) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", links.ports[number]), LIMIT_S))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return take(connection, len(data))


def take(connection: socket.socket, count: int) -> bytes:
    connection.settimeout(LIMIT_S)
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        assert piece, "it ended too early"
        found += piece
    return found


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


Dial = Callable[[int], socket.socket]


def test_bytes_pass_both_ways_and_an_end_is_passed_on(dial: Dial, echo: Echo) -> None:
    connection = dial(0)
    body = bytes(range(256)) * 2000
    sender = threading.Thread(target=connection.sendall, args=(body,))
    sender.start()
    assert take(connection, len(body)) == body
    sender.join(LIMIT_S)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    assert echo.ends.acquire(timeout=LIMIT_S)


def test_a_cut_link_passes_nothing_and_loses_nothing(dial: Dial, links: Links) -> None:
    cut, whole = dial(0), dial(1)
    assert ask(cut, b"before") == b"before"
    links.shape([0], CUT, CUT)
    cut.sendall(b"during")
    assert is_silent(cut)
    assert ask(whole, b"the other link is whole") == b"the other link is whole"
    links.shape([0])
    assert take(cut, 6) == b"during"


def test_a_link_cut_towards_the_syncer_still_passes_what_comes_from_it(
    dial: Dial, links: Links, echo: Echo
) -> None:
    connection = dial(0)
    assert ask(connection, b"open, ") == b"open, "  # a cut way lets no new connection through
    links.shape([0], down=CUT)
    connection.sendall(b"asked")
    assert is_silent(connection)
    assert bytes(echo.heard) == b"open, asked"
    links.shape([0], up=CUT)
    assert take(connection, 5) == b"asked"
    connection.sendall(b"lost for now")
    assert is_silent(connection)
    assert bytes(echo.heard) == b"open, asked"


def test_nobody_comes_through_a_cut_link_until_it_is_mended(dial: Dial, links: Links) -> None:
    links.shape([0], CUT, CUT)
    connection = dial(0)
    connection.sendall(b"hello")
    assert is_silent(connection)
    links.shape([0])
    assert take(connection, 5) == b"hello"


def test_a_reset_ends_both_sides_and_new_connections_pass(
    dial: Dial, links: Links, echo: Echo
) -> None:
    connection = dial(0)
    assert ask(connection, b"x") == b"x"
    links.act([0], "reset")
    connection.settimeout(LIMIT_S)
    try:
        assert connection.recv(1) == b""
    except ConnectionResetError:
        pass
    assert echo.ends.acquire(timeout=LIMIT_S)
    assert ask(dial(0), b"again") == b"again"


def test_a_half_open_connection_is_over_for_the_syncer_and_silent_for_the_learner(
    dial: Dial, links: Links, echo: Echo
) -> None:
    connection = dial(0)
    assert ask(connection, b"x") == b"x"
    links.act([0], "half_open")
    assert echo.ends.acquire(timeout=LIMIT_S), "the syncer's side hears the end"
    connection.sendall(b"nobody hears this")
    assert is_silent(connection), "the learner's side hears nothing"
    assert bytes(echo.heard) == b"x"
    assert ask(dial(0), b"a new one passes") == b"a new one passes"


def test_a_delayed_link_keeps_the_order_of_bytes(dial: Dial, links: Links) -> None:
    connection = dial(0)
    links.shape([0], Shape(delay_s=0.02), Shape(delay_s=0.01))
    body = b"".join(number.to_bytes(4, "big") for number in range(5000))
    assert ask(connection, body) == body
    links.shape([0])
    assert ask(connection, b"after") == b"after"


def test_the_rate_is_shared_by_all_connections_of_a_link() -> None:
    line = Direction(Shape(mbit_s=8.0))
    first = line.wait_s(1_000_000, now_s=100.0)
    second = line.wait_s(1_000_000, now_s=100.0)
    assert first == pytest.approx(1.0 - CREDIT_S)
    assert second == pytest.approx(first + 1.0)
    assert line.wait_s(1000, now_s=200.0) < 0.001


def test_lost_packets_make_bytes_late_by_the_seed_and_a_whole_link_none() -> None:
    line, same = (Direction(Shape(loss=0.1, again_s=0.2), seed=7) for _ in range(2))
    waits = [line.wait_s(1460 * 10, now_s=0.0) for _ in range(50)]
    assert waits == [same.wait_s(1460 * 10, now_s=0.0) for _ in range(50)]
    assert 0.5 * 10 < sum(waits) < 2 * 10, "500 packets, a tenth lost, 0.2 s each"
    assert Direction(Shape()).wait_s(1 << 20, now_s=0.0) == 0.0


def test_the_process_of_links_ends_with_whoever_opened_it(echo: Echo) -> None:
    ways = Links(echo.port, 1)
    ways.open()
    with closing(socket.create_connection(("127.0.0.1", ways.ports[0]), LIMIT_S)) as connection:
        assert ask(connection, b"x") == b"x"
        ways.close()
        connection.settimeout(LIMIT_S)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
