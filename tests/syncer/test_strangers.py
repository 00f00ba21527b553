"""Who has no secret holds no place for long; a kept connection that was closed is opened anew."""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import door_of
from atoll.ferry.pace import Pace
from atoll.syncer import front, running
from syncer.lagoon import RUN, SECRET, Client, serving, settings_of, until
from syncer.processes import Process, syncer
from syncer.processes import running as running_process


def closed(connection: socket.socket) -> bool:
    connection.settimeout(20.0)
    return connection.recv(1) == b""


@pytest.mark.parametrize("said", [b"GET /a", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_half_a_request_is_closed_and_whoever_came_in_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(front, "HEAD_S", 0.5)
    with serving(tmp_path, settings_of(), new=True) as service, ExitStack() as stack:
        port = service.address.port
        client = Client(port)
        client.bring_layout()
        client.hello()
        connection = client.http._connection
        stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stranger.sendall(said)
        assert closed(stranger)
        assert client.socket.ping().wait(20.0), "it came before, and had shown the secret"
        assert client.http.status() and client.http._connection is connection
        client.close()


def test_a_kept_connection_that_the_syncer_closed_is_opened_anew_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IDLE_S", 0.3)
    with serving(tmp_path, settings_of(), new=True) as service:
        address = Address("127.0.0.1", service.address.port)
        bulk = BulkConnection(door_of(Invite(RUN, (address,), "", SECRET)), Pace())
        ask = Request("GET", bulk.door.path("settings"))
        assert bulk.ask(ask).status == 200
        first = bulk._sock
        assert first is not None
        until(lambda: first.recv(1, socket.MSG_PEEK) == b"", "the end of the idle connection")
        body = memoryview(json.dumps({}).encode() * 1000)
        assert bulk.ask(ask).status == 200
        second = bulk._sock
        assert second is not None and second is not first
        until(lambda: second.recv(1, socket.MSG_PEEK) == b"", "the end of the next one")
        with pytest.raises(Exception, match="layout") as refused:
            bulk.ask(Request("PUT", bulk.door.path("layout"), body))
        assert type(refused.value).__name__ == "RefusedError", "the body went out again, whole"
        bulk.close()


def descriptors(process: Process) -> tuple[int, int]:
    return resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_syncer_takes_all_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    few = (
        "import os, resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", few, *syncer(tmp_path, settings_of(), "--new")[1:]]
    with running_process(command) as process:
        process.ready()
        soft, hard = descriptors(process)
        assert soft == hard > 64
        process.popen.send_signal(signal.SIGTERM)
        assert process.code() == 0
