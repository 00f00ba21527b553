"""Inner state through the syncer's memory: what passes, and what is refused, with which reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atoll.core import messages as msg
from atoll.core.donors import WARM_STEPS
from atoll.ferry.inner import InnerState
from atoll.fragments import Layout
from atoll.fragments.inner import most_bytes
from atoll.syncer.service import SyncerService
from atoll.syncer.settings import SyncerSettings
from syncer.lagoon import (
    PART,
    ROOT,
    Client,
    Http,
    Merger,
    Reply,
    begun,
    crc_of,
    layout_of,
    serving,
    settings_of,
    sha,
)

ROWS = 40_000
"""So that the inner state of a fragment takes several parts."""


def inner_state(layout: Layout, stepped: bool = True, seed: int = 0) -> InnerState:
    """Parameters of the layout under AdamW, after a few steps."""
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {
        spec.name: torch.nn.Parameter(torch.randn(spec.shape)) for spec in layout.tensors
    }
    optimizer = torch.optim.AdamW(tensors.values(), lr=1e-3)
    for _ in range(3 if stepped else 0):
        for tensor in tensors.values():
            tensor.grad = torch.randn(tensor.shape)
        optimizer.step()
    return InnerState(layout, tensors, [optimizer])


def body_of(inner: InnerState, fragment: int) -> bytes:
    copy = inner.plan(fragment)
    assert copy.take(None)
    return bytes(copy.body())


@dataclass
class Relay:
    """A donor that was asked for fragment 0 by an heir, both scripted."""

    service: SyncerService
    donor: Client
    heir: Client
    http: Http
    lend: msg.LendInner
    layout: Layout

    def path(self, body: bytes, index: int = 0, **other: int) -> str:
        transfer = self.lend.transfer
        names = {"heir": transfer.heir, "donor": transfer.donor, "attempt": transfer.attempt}
        named = ".".join(str(each) for each in {**names, **other}.values())
        return f"{ROOT}/inner/{named}/{index}/{len(body)}"

    def put(self, path: str, body: bytes, part: int = 0) -> Reply:
        piece = body[part * PART : (part + 1) * PART]
        return self.http.ask("PUT", f"{path}/parts/{part}", piece, crc_of(piece))

    def send(self, body: bytes, index: int = 0) -> Reply:
        self.http.put_parts(self.path(body, index), body)
        return self.http.commit(self.path(body, index), "inner", body)

    def used_bytes(self) -> int:
        used: int = self.http.status()["contributions"]["used_bytes"]
        return used

    def ask(self, attempt: int = 0, taken: int = 0) -> None:
        life = self.heir.incarnation
        self.heir.say(msg.AskInner(self.heir.name, life, "AdamW()", 60.0, attempt, taken))


def patient(**service: int) -> SyncerSettings:
    """Scripted learners send no beats: nobody is away for that."""
    settings = settings_of(M=1, **service)
    return replace(settings, protocol=replace(settings.protocol, silence_s=600.0))


def joined(service: SyncerService, name: str, layout: Layout) -> Client:
    client = Client(service.address.port, name, f"{name}-1", layout=layout)
    client.hello()
    return client


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    layout = layout_of(rows=ROWS)
    with serving(tmp_path, patient(), new=True) as service:
        donor = begun(service.address.port, layout=layout)
        Merger(donor).round()
        donor.train(WARM_STEPS)
        heir = joined(service, "heir", layout)
        made = Relay(service, donor, heir, Http(service.address.port), msg.LendInner, layout)  # type: ignore[arg-type]
        made.ask()
        made.lend = donor.expect(msg.LendInner, index=0)
        yield made
        for client in (donor, heir):
            client.close()
        made.http.close()


def test_inner_state_comes_through_bit_for_bit_and_leaves_no_memory_behind(relay: Relay) -> None:
    lent = inner_state(relay.layout)
    bodies = {index: body_of(lent, index) for index in range(2)}
    assert len(bodies[0]) > PART
    came: dict[int, memoryview] = {}
    for index in range(2):
        assert relay.send(bodies[index], index).status == 202
        assert relay.send(bodies[index], index).status == 202, "a second time it is 202 again"
        here = relay.heir.expect(msg.InnerHere, index=index)
        assert (here.size_bytes, here.digest) == (len(bodies[index]), sha(bodies[index]))
        path = relay.path(bodies[index], index)
        parts = [relay.http.ask("GET", f"{path}/parts/{i}") for i in range(2)]
        came[index] = memoryview(b"".join(each.body for each in parts))
        relay.ask(here.transfer.attempt, index + 1)
    assert {index: bytes(body) for index, body in came.items()} == bodies
    taken = inner_state(relay.layout, stepped=False, seed=1)
    assert taken.install(came) == 2 * 3
    assert {index: body_of(taken, index) for index in range(2)} == bodies
    relay.heir.say(msg.Leave("heir", relay.heir.incarnation, "done"))
    gone = relay.http.ask("GET", f"{relay.path(bodies[0])}/parts/0")
    assert (gone.status, gone.code) == (410, "gone")
    assert relay.used_bytes() == 0


def test_nothing_is_taken_that_is_not_asked_for(relay: Relay) -> None:
    body = body_of(inner_state(relay.layout), 0)
    for path in (
        relay.path(body, 1),
        relay.path(body, attempt=9),
        relay.path(body, donor=9),
        relay.path(body, heir=9),
    ):
        reply = relay.put(path, body)
        assert (reply.status, reply.code) == (409, "unwanted"), path
    over = msg.InnerOver("heir", relay.heir.incarnation, relay.lend.transfer, "given_up", "late")
    relay.heir.say(over)
    relay.ask(relay.lend.transfer.attempt)
    again = relay.donor.expect(msg.LendInner, index=0)
    assert again.transfer.attempt > relay.lend.transfer.attempt
    reply = relay.put(relay.path(body), body)
    assert (reply.status, reply.code) == (409, "unwanted"), "the try before is over"
    assert relay.used_bytes() == 0


def test_sizes_are_checked_before_memory_is_taken(relay: Relay) -> None:
    most = most_bytes(relay.layout, 0)
    named = str(relay.lend.transfer)
    reply = relay.http.ask("PUT", f"{ROOT}/inner/{named}/0/{most + 1}/parts/0", b"", crc_of(b""))
    assert (reply.status, reply.code) == (413, "size")
    body = body_of(inner_state(relay.layout), 0)
    reply = relay.http.ask("PUT", f"{relay.path(body)}/parts/0", b"abc", crc_of(b"abc"))
    assert (reply.status, reply.code) == (413, "size")
    for path in (
        f"{ROOT}/inner/{named}/7/64/parts/0",
        f"{ROOT}/inner/1.2/0/64/parts/0",
        f"{ROOT}/inner/{named}/0/-1/parts/0",
        f"{ROOT}/inner/{named}/0/64/parts/1",
    ):
        reply = relay.http.ask("PUT", path, b"abc", crc_of(b"abc"))
        assert (reply.status, reply.code) == (404, "unknown_path"), path
    assert relay.used_bytes() == 0


def test_broken_bytes_and_what_is_no_inner_state_are_refused(relay: Relay) -> None:
    body = body_of(inner_state(relay.layout), 0)
    path = relay.path(body)
    reply = relay.http.ask("PUT", f"{path}/parts/0", body[:PART], crc_of(b"other"))
    assert (reply.status, reply.code) == (422, "checksum")
    assert relay.http.commit(path, "inner", body).code == "missing"
    relay.http.put_parts(path, body)
    reply = relay.http.commit(path, "inner", b"x" * len(body))
    assert (reply.status, reply.code) == (422, "checksum")
    other = inner_state(Layout.from_specs(relay.layout.tensors[1:], 1))
    stranger = body_of(other, 0)
    reply = relay.send(stranger)
    assert (reply.status, reply.code) == (422, "malformed"), "a tensor of another fragment"
    garbage = bytes(64)
    assert relay.send(garbage).code == "malformed"
    assert relay.used_bytes() == 0
    assert relay.send(body).status == 202, "and after all that the right one passes"


def test_inner_state_gets_a_share_of_the_memory_and_no_more(tmp_path: Path) -> None:
    layout = layout_of(rows=ROWS)
    lent = inner_state(layout)
    body = body_of(lent, 0)
    with serving(tmp_path, patient(memory_bytes=3 * len(body)), new=True) as service:
        donor = begun(service.address.port, layout=layout)
        Merger(donor).round()
        donor.train(WARM_STEPS)
        heir = joined(service, "heir", layout)
        http = Http(service.address.port)
        relay = Relay(service, donor, heir, http, msg.LendInner, layout)  # type: ignore[arg-type]
        relay.ask()
        relay.lend = donor.expect(msg.LendInner)
        reply = relay.put(relay.path(body), body)
        assert (reply.status, reply.code) == (413, "size")
        assert "memory_bytes" in reply.plain["sentence"]
        donor.say(
            msg.InnerOver("a", donor.incarnation, relay.lend.transfer, reply.code, "too large")
        )
        assert "too large" in heir.expect(msg.InnerNone).sentence
        for client in (donor, heir, http):
            client.close()
