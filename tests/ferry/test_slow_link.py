"""A link that is slow and never stops moving is no broken one, with TLS or without."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from atoll.access.addresses import Address
from atoll.access.tls import (
    client_context,
    issue_server,
    make_authority,
    server_context,
    write_credentials,
)
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import Door
from atoll.ferry.errors import LinkBrokenError
from atoll.ferry.pace import Pace

STALL_S = 1.5
SIP_BYTES = 16 << 10
BYTES_PER_S = 600_000
BODY = bytes(2 << 20)
"""Longer under way than `STALL_S`, and so is each half; the kernel would take it whole at once."""


def sip(listener: socket.socket, tls: ssl.SSLContext | None, num_bytes: int) -> None:
    """Take so much of a request, a little at a time; answer it when it is there whole."""
    raw, _ = listener.accept()
    with closing(tls.wrap_socket(raw, server_side=True) if tls else raw) as connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        taken = 0
        while taken < num_bytes:
            num_taken = len(connection.recv(SIP_BYTES))
            taken += num_taken
            time.sleep(num_taken / BYTES_PER_S)
        if num_bytes == len(BODY):
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            time.sleep(3 * STALL_S)


def listening() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def ask(listener: socket.socket, contexts: tuple[ssl.SSLContext, ...], num_bytes: int) -> int:
    ours, theirs = contexts or (None, None)
    address = Address("127.0.0.1", listener.getsockname()[1])
    door = Door("reef", (address,), "Bearer x", ours, stall_s=STALL_S)
    threading.Thread(target=sip, args=(listener, theirs, num_bytes), daemon=True).start()
    bulk = BulkConnection(door, Pace())
    try:
        return bulk.ask(Request("PUT", "/reef", BODY)).status
    finally:
        bulk.close()


@pytest.fixture(params=["clear", "tls"])
def contexts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext, ...]:
    if request.param == "clear":
        return ()
    authority = make_authority("reef")
    server = issue_server(authority, ["127.0.0.1"])
    write_credentials(server, tmp_path / "pem", tmp_path / "key")
    ours = client_context(authority.certificate_pem)
    return ours, server_context(tmp_path / "pem", tmp_path / "key")


def test_what_moves_is_waited_for(contexts: tuple[ssl.SSLContext, ...]) -> None:
    with closing(listening()) as listener:
        assert ask(listener, contexts, len(BODY)) == 204


def test_what_stands_still_is_given_up(contexts: tuple[ssl.SSLContext, ...]) -> None:
    with closing(listening()) as listener, pytest.raises(LinkBrokenError, match="timed out"):
        ask(listener, contexts, len(BODY) // 16)
