"""A transfer on a connection that leads nowhere ends when control has come back."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.tokens import new_secret
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import STALL_S, door_of
from atoll.ferry.errors import LinkBrokenError
from atoll.ferry.pace import Pace


def test_a_request_on_a_half_open_connection_breaks_when_control_is_back() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        bulk = BulkConnection(door_of(Invite("run", (address,), "", new_secret())), Pace())
        broke: list[LinkBrokenError] = []

        def ask() -> None:
            try:
                bulk.ask(Request("GET", "/nothing"))
            except LinkBrokenError as error:
                broke.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        with closing(silent.accept()[0]) as connection:
            assert connection.recv(1 << 16), "the request is under way, and nobody answers"
            bulk.follow()
            asking.join(STALL_S / 2)
            assert not asking.is_alive() and broke
