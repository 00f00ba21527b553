"""Bulk over real sockets: parts, resuming, checksums, refusals, lines cut in the middle."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

from atoll.core.ids import Cut, CutId
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import Door, door_of
from atoll.ferry.download import BadCopyError, Downloader
from atoll.ferry.errors import GivenUpError, LinkBrokenError, RefusedError
from atoll.ferry.pace import Pace
from atoll.ferry.parts import PART_BYTES, PartCarrier
from atoll.ferry.upload import Uploader, contribution, is_final
from atoll.ferry.workers import Workers
from atoll.merge.chain import Chain, Increment, digest_of, first_version, publish
from atoll.merge.codecs import encode
from ferry.lagoon import Lagoon, Rule

NUMEL = (9 << 20) // 4  # three parts, the last one short
CUT = Cut(CutId("ann", 3, 7), 1, 0, 0, 100, 4, 1, 4)
PLACE = "contributions/ann.3.7/1"


@dataclass
class Rig:
    lagoon: Lagoon
    door: Door
    carrier: PartCarrier
    own: BulkConnection

    def up(self) -> Uploader:
        return Uploader(self.door, self.carrier)

    def down(self) -> Downloader:
        return Downloader(self.door, self.carrier, self.lagoon.downlink)


@pytest.fixture
def rig(new_lagoon: Callable[..., Lagoon]) -> Iterator[Rig]:
    lagoon = new_lagoon()
    door = door_of(lagoon.invite)
    crashes: list[BaseException] = []
    workers = Workers(3, lambda: BulkConnection(door, Pace()), crashes.append)
    own = BulkConnection(door, Pace())
    yield Rig(lagoon, door, PartCarrier(workers), own)
    workers.stop()
    own.close()
    assert crashes == []


def parcel_of(values: torch.Tensor) -> object:
    return contribution(CUT, "fp32", encode("fp32", values))


def values(seed: int = 0) -> torch.Tensor:
    return torch.randn(NUMEL, generator=torch.Generator().manual_seed(seed))


def send(rig: Rig, again: bool = False, wanted: Callable[[], bool] = lambda: True) -> None:
    rig.up().send(rig.own, parcel_of(values()), wanted, again)  # type: ignore[arg-type]


def test_parts_arrive_and_are_committed(rig: Rig) -> None:
    send(rig)
    assert rig.lagoon.body_of(PLACE) == values().numpy().tobytes()
    assert [len(rig.lagoon.parts[PLACE][i]) for i in range(3)] == [4 << 20, 4 << 20, 1 << 20]
    said = rig.lagoon.commits[PLACE]
    assert said["cut"]["id"] == {"learner": "ann", "incarnation": 3, "number": 7}
    assert (said["codec"], said["bytes"]) == ("fp32", 4 * NUMEL)


def test_line_cut_in_the_middle_of_a_part_costs_only_that_part(rig: Rig) -> None:
    # Twice: a kept connection may have been closed, so the first break is tried once more at once.
    rig.lagoon.rules += [Rule("PUT", "parts/1", cut_after_bytes=1 << 20) for _ in range(2)]
    send(rig)
    assert rig.lagoon.body_of(PLACE) == values().numpy().tobytes()
    assert ("GET", f"{PLACE}/parts") in rig.lagoon.asked
    sent = [path for method, path in rig.lagoon.asked if method == "PUT"]
    assert sent.count(f"{PLACE}/parts/0") == 1


def test_second_try_sends_only_what_is_missing(rig: Rig) -> None:
    body = values().numpy().tobytes()
    rig.lagoon.parts[PLACE] = {0: body[:PART_BYTES], 2: body[2 * PART_BYTES :]}
    send(rig, again=True)
    assert [path for method, path in rig.lagoon.asked if method == "PUT"] == [f"{PLACE}/parts/1"]
    assert rig.lagoon.body_of(PLACE) == body


def test_part_with_a_bad_checksum_is_sent_again(rig: Rig) -> None:
    rig.lagoon.rules.append(Rule("PUT", "parts/2", 422, "checksum"))
    send(rig)
    assert rig.lagoon.body_of(PLACE) == values().numpy().tobytes()


@pytest.mark.parametrize(
    ("status", "code", "final"),
    [
        (409, "conflict", True),
        (409, "stale", True),
        (410, "closed", True),
        (413, "size", True),
        (422, "non_finite", True),
        (503, "starting", False),
        (507, "disk_full", False),
        (401, "uninvited", False),
    ],
)
def test_refusals_carry_the_sentence_and_whether_they_are_final(
    rig: Rig, status: int, code: str, final: bool
) -> None:
    rig.lagoon.rules.append(Rule("POST", "commit", status, code))
    with pytest.raises(RefusedError, match=f"scripted {code}") as caught:
        send(rig)
    assert is_final(caught.value) is final
    assert caught.value.code == code


def test_upload_that_nobody_wants_stops(rig: Rig) -> None:
    with pytest.raises(GivenUpError):
        send(rig, wanted=lambda: False)
    assert rig.lagoon.parts == {}


def test_stopped_server_is_a_broken_link_that_names_the_address(rig: Rig) -> None:
    rig.lagoon.close()
    with pytest.raises(LinkBrokenError, match=rig.lagoon.address):
        send(rig)


def chain_of(num_versions: int, codec: str = "fp32") -> Chain:
    chain = Chain(first_version(values()))
    for version in range(num_versions):
        theta = chain.published.values + 0.01 * values(version + 1)
        chain.append(*publish(chain.published, theta, codec))  # type: ignore[arg-type]
    return chain


def test_full_copy_comes_in_ranges(rig: Rig) -> None:
    rig.lagoon.chains[0] = chain_of(1)
    found = rig.down().fetch(rig.own, 0, NUMEL, None)
    assert (found.version, found.digest) == (1, digest_of(found.values))
    assert torch.equal(found.values, rig.lagoon.chains[0].published.values)
    assert len(rig.lagoon.asked) == 3


def test_increments_are_applied_over_the_base(rig: Rig) -> None:
    rig.lagoon.downlink = "int8"
    chain = chain_of(0)
    base = chain.published
    for seed in (1, 2, 3):
        chain.append(*publish(chain.published, chain.published.values + values(seed), "int8"))
    rig.lagoon.chains[0] = chain
    before = base.values.clone()
    found = rig.down().fetch(rig.own, 0, NUMEL, base)
    assert found.version == 3
    assert torch.equal(found.values, chain.published.values)
    assert torch.equal(base.values, before), "the base is never written to"
    assert rig.down().fetch(rig.own, 0, NUMEL, found) is found


def test_download_goes_on_after_a_line_cut_in_the_middle(rig: Rig) -> None:
    rig.lagoon.chains[0] = chain_of(0)
    rig.lagoon.rules.append(Rule("GET", "fragments/0", cut_after_bytes=1000))
    rig.lagoon.rules.append(Rule("GET", "fragments/0", cut_after_bytes=1 << 20))
    found = rig.down().fetch(rig.own, 0, NUMEL, None)
    assert torch.equal(found.values, rig.lagoon.chains[0].published.values)


def test_version_that_changes_between_two_ranges_is_fetched_anew(rig: Rig) -> None:
    rig.lagoon.chains[0] = chain_of(0)
    original = rig.lagoon.news

    def news(fragment: int, base: int | None) -> tuple[int, str, str, bytes]:
        answer = original(fragment, base)
        if rig.lagoon.chains[0].published.version == 0:
            rig.lagoon.chains[0] = chain_of(1)
        return answer

    rig.lagoon.news = news  # type: ignore[method-assign]
    found = rig.down().fetch(rig.own, 0, NUMEL, None)
    assert found.version == 1
    assert torch.equal(found.values, rig.lagoon.chains[0].published.values)


def test_wrong_digest_asks_for_a_full_copy(rig: Rig) -> None:
    rig.lagoon.downlink = "int8"
    chain = chain_of(0)
    theta = chain.published.values + values(1)
    published, increment = publish(chain.published, theta, "int8")
    chain.append(published, Increment(1, "int8", increment.payload, increment.digest))
    rig.lagoon.chains[0] = chain
    other = first_version(values(9))
    with pytest.raises(BadCopyError, match="full copy"):
        rig.down().fetch(rig.own, 0, NUMEL, other)


def test_more_bytes_than_the_layout_gives_are_refused_unread(rig: Rig) -> None:
    rig.lagoon.chains[0] = chain_of(0)
    with pytest.raises(LinkBrokenError, match="where 40 were asked for"):
        rig.down().fetch(rig.own, 0, 10, None)


def test_cap_slows_down_what_leaves() -> None:
    waits: list[float] = []
    clock = [0.0]
    pace = Pace(8.0, now=lambda: clock[0], wait=waits.append)  # 1 MB/s
    assert pace.slice_bytes(1 << 20) == 50_000
    for _ in range(4):
        pace.take(100_000)
    assert sum(waits) == pytest.approx(0.05 + 0.15 + 0.25, abs=0.2)
    assert waits == sorted(waits)


def test_goes_through_a_proxy(new_lagoon: Callable[..., Lagoon]) -> None:
    """A proxy sees CONNECT for TLS only; plain HTTP on the loopback is tunnelled as well."""
    lagoon = new_lagoon()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        seen = _tunnel_once(listener, lagoon.port)
        own = BulkConnection(door_of(lagoon.invite, proxy=f"http://127.0.0.1:{port}"), Pace())
        answer = own.ask(Request("GET", own.door.path("settings")))
        own.close()
    assert answer.status == 200
    assert seen[0].startswith(f"CONNECT {lagoon.address}".encode())


def _tunnel_once(listener: socket.socket, port: int) -> list[bytes]:
    seen: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        seen.append(client.recv(4096))
        client.sendall(b"HTTP/1.1 200 go\r\n\r\n")
        server = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=pump, args=(server, client), daemon=True)
        back.start()
        pump(client, server)
        back.join(5)
        client.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    return seen


def test_nothing_that_is_printed_of_a_door_lets_anybody_in(
    new_lagoon: Callable[..., Lagoon],
) -> None:
    invite = new_lagoon().invite
    door = door_of(invite)
    assert door.authorization.startswith("Bearer ")
    assert door.authorization not in f"{door!r} {door}"
