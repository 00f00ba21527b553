"""The service around the rounds: TLS, full disks, slow readers, several learners and shards."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from websockets.exceptions import ConnectionClosed

from atoll.access.tls import (
    client_context,
    issue_server,
    make_authority,
    server_context,
    write_credentials,
)
from atoll.access.tokens import Role, authorization
from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.store.faults import Faults, FaultyDisk
from atoll.syncer.cores import Cores, SpinError
from atoll.syncer.front import is_control
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import settings_from, settings_to
from syncer.lagoon import (
    ROOT,
    SECRET,
    Client,
    Http,
    Merger,
    begun,
    bytes_of,
    layout_of,
    place,
    serving,
    settings_of,
    thetas,
    until,
)


def test_the_settings_say_what_learners_have_to_follow(tmp_path: Path) -> None:
    settings = settings_of(M=1)
    with serving(tmp_path, settings, new=True) as service:
        http = Http(service.address.port)
        plain = http.ask("GET", f"{ROOT}/settings").plain
        assert plain["protocol"]["H"] == settings.protocol.H
        assert plain["codecs"] == {"uplink": "bf16", "downlink": "bf16"}
        assert (plain["num_shards"], plain["strategy"], plain["epoch"]) == (1, "balanced", 1)
        http.close()
    assert settings_from(json.loads(json.dumps(settings_to(settings)))) == settings


@pytest.mark.parametrize("alpn", [["atoll-control"], ["http/1.1"]])
def test_under_tls_everything_works_whatever_name_the_client_offers(
    tmp_path: Path, alpn: list[str]
) -> None:
    authority = make_authority("test")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    write_credentials(issue_server(authority, ["localhost", "127.0.0.1"]), certificate, key)
    tls = client_context(authority.certificate_pem)
    tls.set_alpn_protocols(alpn)
    options: dict[str, Any] = {"new": True, "tls": server_context(certificate, key)}
    with serving(tmp_path / "runs", settings_of(), **options) as service:
        client = Client(service.address.port, tls=tls)
        client.bring_layout()
        client.hello()
        client.expect(msg.Initialise)
        client.initial(thetas(client.layout))
        client.expect(msg.Begin)
        Merger(client).round()
        with socket.create_connection(("127.0.0.1", service.address.port)) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        client.leave()


def test_a_full_disk_stops_merging_and_says_so_until_there_is_room(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "graveyard")
    with serving(tmp_path / "runs", settings_of(), new=True, disk=disk) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        first = merger.round()
        disk.faults = replace(disk.faults, room_bytes=0)
        outcome: list[msg.Published] = []
        waiting = Thread(target=lambda: outcome.append(merger.round()))
        waiting.start()
        other = Http(service.address.port)
        until(lambda: "disk full" in other.status()["waiting"], "the status says so")
        assert not outcome
        disk.faults = Faults()
        waiting.join(20)
        assert outcome
        assert outcome[0].version >= first.version
        assert other.status()["waiting"] == ""
        other.close()
        client.leave()


def test_a_snapshot_that_found_no_room_is_said_until_there_is_one(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "graveyard", Faults(room_bytes=64 << 20))  # the log's reserve
    settings = settings_of(snapshot_every_merges=6)
    with serving(tmp_path / "runs", settings, new=True, disk=disk) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        status = client.http.status
        rounds = 0
        while not status()["trouble"]:
            merger.round()
            rounds += 1
            assert rounds < 20
        said = status()["trouble"]
        assert said.startswith("no snapshot, the log has everything: disk full")
        merger.round()
        assert status()["trouble"] == said, "a merge does not take it back"
        disk.faults = Faults()
        while not status()["counts"]["snapshots"]:
            merger.round()
            rounds += 1
            assert rounds < 40
        assert status()["trouble"] == ""
        client.leave()


def test_a_reader_that_stops_reading_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("atoll.syncer.downloads.SLICE_S", 0.2)
    caplog.set_level("INFO", "atoll.syncer")
    layout = layout_of(P=1, rows=1 << 18)
    num_bytes = 4 * layout.fragments[0].numel
    with serving(tmp_path, settings_of(P=1), new=True) as service:
        client = begun(service.address.port, layout=layout)
        said = authorization(SECRET, Role.OBSERVER)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect(("127.0.0.1", service.address.port))
            head = f"GET {ROOT}/fragments/0 HTTP/1.1\r\nHost: x\r\nAtoll-Protocol: 1\r\n"
            silent.sendall(f"{head}Authorization: {said}\r\n\r\n".encode())
            until(lambda: "does not read what it asked for" in caplog.text, "it is cut off")
        assert 0 < service.counts.bytes_out < num_bytes
        assert "Traceback" not in caplog.text
        assert len(client.fetch(0).body) == num_bytes
        client.leave()


def test_whoever_does_not_read_is_disconnected_and_costs_nobody_else(tmp_path: Path) -> None:
    settings = settings_of(M=1, queue_bytes=20_000)
    with serving(tmp_path, settings, new=True) as service:
        client = begun(service.address.port)
        control = service.control
        link = control.ask(lambda: service.engine.book.present["a"]).result()
        control.ask(link.send, "x" * 20_001).result()
        until(lambda: link.why.startswith("too slow"), "it is found out")
        until(lambda: not client.http.status()["learners"]["a"]["connected"], "it is away")
        assert client.http.status()["phase"] == "training"
        with pytest.raises((ConnectionClosed, EOFError)):
            client.expect(msg.Ended)
        client.close()


def test_a_lost_connection_is_away_and_a_new_one_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        merger.round()
        life = client.incarnation
        client.close()
        http = Http(service.address.port)
        until(lambda: http.status()["coordinator"]["away"] == 1, "away")
        welcome = client.hello()
        assert (welcome.incarnation, welcome.resumed) == (life, True)
        # A second connection before the first is known to be gone takes its place.
        first = client._stack
        client.hello()
        client.expect(msg.Published, fragment=1)
        until(lambda: http.status()["connections"] == 1, "only the newer one")
        assert http.status()["learners"]["a"]["connected"]
        first.close()
        merger.round()
        http.close()
        client.leave()


def test_two_learners_and_two_shards(tmp_path: Path) -> None:
    settings = settings_of(M=2, P=4)
    settings = replace(settings, run=replace(settings.run, num_shards=2))
    layout = layout_of(P=4)
    with serving(tmp_path, settings, new=True) as service:
        port = service.address.port
        both = [begun_of(port, name, layout) for name in "ab"]
        until(lambda: both[0].http.status()["coordinator"]["live"] == 2, "both are live")
        for client in both:
            report(client, steps=4)
        for number in (0, 1):
            calls = [client.expect_call(number) for client in both]
            p = calls[0].fragment
            assert [call.fragment for call in calls] == [p, p]
            for client, call in zip(both, calls, strict=True):
                cut = client.cut(call, p, 0, 0)
                assert client.contribute(cut, torch.full((128,), 0.01)).status == 202
            published = [client.expect(msg.Published, fragment=p, version=1) for client in both]
            assert published[0] == published[1]
            assert [mark.learner for mark in published[0].merged_by] == ["a", "b"]
        for client in both:
            client.close()


def begun_of(port: int, name: str, layout: Any) -> Client:
    if name == "a":
        return begun(port, name, layout)
    client = Client(port, name, layout=layout)
    client.bring_layout()
    assert client.hello().ready
    return client


def report(client: Client, steps: int) -> None:
    for _ in range(steps):
        client.step, client.tokens = client.step + 1, client.tokens + 100
        said = msg.Report(client.name, client.incarnation, client.step, client.tokens, 0.05)
        for party in ("coordinator", "shard-0", "shard-1"):
            client.say(said, party)


def test_version_0_from_a_file(tmp_path: Path) -> None:
    theta = thetas(layout_of())
    path = tmp_path / "initial.safetensors"
    save_file({f"t{p}": values.view(8, 16) for p, values in theta.items()}, path)
    plain = settings_to(settings_of())
    plain["run"]["initial"], plain["service"]["initial_file"] = "file", str(path)
    settings = settings_from(plain)
    with serving(tmp_path / "runs", settings, new=True) as service:
        client = Client(service.address.port)
        client.bring_layout()
        client.hello()
        until(lambda: client.http.status()["phase"] == "training", "version 0 is durable")
        assert client.fetch(1).body == bytes_of(theta[1])
        client.leave()


def test_every_event_of_every_core_is_recorded_and_replays(tmp_path: Path) -> None:
    tape: list[tuple[str, float, object, list[fx.Effect]]] = []

    def record(party: str, now_s: float, event: object, effects: list[fx.Effect]) -> None:
        tape.append((party, now_s, event, list(effects)))

    with serving(tmp_path, settings_of(), new=True, recorder=record) as service:
        client = begun(service.address.port)
        Merger(client).round()
        client.leave()
        epoch, run = 1, service.engine.run
    from atoll.core.coordinator import CoordinatorCore
    from atoll.core.shard import ShardCore

    assert run is not None
    again = {
        "coordinator": CoordinatorCore(settings_of().protocol, run.settings, epoch),
        "shard-0": ShardCore(settings_of().protocol, 0, 1, epoch),
    }
    assert {party for party, *_ in tape} == set(again)
    for party, now_s, event, effects in tape:
        assert again[party].handle(now_s, event) == effects
    times = [now_s for _, now_s, *_ in tape]
    assert times == sorted(times)


def test_a_core_that_would_spin_is_a_mistake_of_ours() -> None:
    class Spinning:
        def handle(self, now_s: float, event: object) -> list[fx.Effect]:
            return []

        def next_deadline_s(self) -> float:
            return 1.0

    cores = Cores(Spinning(), [], lambda: 2.0)  # type: ignore[arg-type]
    with pytest.raises(SpinError, match="would spin"):
        cores.tick()
    assert cores.tell("coordinator", ev.StopAsked("x")) == []


def test_a_failure_in_a_core_ends_the_service(tmp_path: Path) -> None:
    service = SyncerService(settings_of(), SyncerOptions(tmp_path, SECRET, new=True))
    service.start()

    def fail() -> None:
        raise KeyError("a mistake of ours")

    service.control.post(fail)
    assert service.wait(10)
    assert isinstance(service.error, KeyError)
    service.stop()


def test_stopping_takes_no_longer_for_a_client_that_hangs(tmp_path: Path) -> None:
    service = SyncerService(settings_of(), SyncerOptions(tmp_path, SECRET, new=True))
    port = service.start().port
    with socket.create_connection(("127.0.0.1", port)) as silent:
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"PUT /atoll/v1/x/layout HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            began_s = time.monotonic()
            service.stop()
            assert time.monotonic() - began_s < 10
        assert silent.recv(10) == b""


@pytest.mark.parametrize(
    ("first", "control"),
    [
        (b"GET /atoll/v1/r/control HTTP/1.1\r\nHost: x", True),
        (b"GET /atoll/v1/r/settings HTTP/1.1\r\n", False),
        (b"PUT /atoll/v1/r/control HTTP/1.1\r\n", False),
        (b"GET /atoll/v1/r/contr", False),
        (b"\x16\x03\x01 ... \x0datoll-control", True),
        (b"\x16\x03\x01 ... http/1.1", False),
        (b"", False),
    ],
)
def test_first_bytes_show_what_a_connection_is(first: bytes, control: bool) -> None:
    assert is_control(first) is control


def test_a_cut_of_several_parts_goes_on_where_it_was(tmp_path: Path) -> None:
    layout = layout_of(P=1, rows=300_000)
    with serving(tmp_path, settings_of(P=1), new=True) as service:
        client = begun(service.address.port, layout=layout)
        client.train(2)
        call = client.expect(msg.Call)
        cut = client.cut(call, 0, 0, 0)
        from atoll.merge.codecs import encode

        body = bytes_of(encode("bf16", torch.full((layout.fragments[0].numel,), 0.5)))
        assert 2 * (4 << 20) < len(body) < 3 * (4 << 20)
        from syncer.lagoon import PART, crc_of

        for index in (2, 0):
            part = body[index * PART : (index + 1) * PART]
            path = f"{place(cut)}/parts/{index}"
            assert client.http.ask("PUT", path, part, crc_of(part)).status == 204
        assert client.http.ask("GET", f"{place(cut)}/parts").plain == {"parts": [0, 2]}
        assert client.http.commit(place(cut), "bf16", body, cut).code == "missing"
        # A connection that breaks in the middle of a part leaves no trace of it.
        part = body[PART : 2 * PART]
        broken = Http(service.address.port)
        broken.ask("GET", "/healthz")
        assert broken._connection is not None
        broken._connection.putrequest("PUT", f"{place(cut)}/parts/1")
        from atoll.access.tokens import Role, authorization

        said = {"Authorization": authorization(SECRET, Role.LEARNER), "Atoll-Protocol": "1"}
        for name, value in {**said, **crc_of(part), "Content-Length": str(PART)}.items():
            broken._connection.putheader(name, value)
        broken._connection.endheaders(part[:1000])
        broken.close()
        assert client.http.ask("GET", f"{place(cut)}/parts").plain == {"parts": [0, 2]}
        path = f"{place(cut)}/parts/1"
        assert client.http.ask("PUT", path, part, crc_of(part)).status == 204
        assert client.http.commit(place(cut), "bf16", body, cut).status == 202
        assert client.expect(msg.Published, version=1).fragment == 0
        client.leave()
