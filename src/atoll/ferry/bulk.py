"""One kept HTTP connection for bulk: blocking, in slices, into memory that is already there.

Used by one thread. Must never copy a body on its way, nor read more than it was given room for.
Whatever breaks is a LinkBrokenError, whatever the syncer says no to a RefusedError with its
sentence; after either the connection is opened anew.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from atoll.access.addresses import Address
from atoll.ferry.door import Door
from atoll.ferry.errors import GivenUpError, LinkBrokenError, RefusedError
from atoll.ferry.forks import keep_from_children
from atoll.ferry.pace import Pace

SLICE_BYTES = 1 << 20
SEND_BYTES = 1 << 16
"""TLS takes what it is given or times out, so it is given little."""
UNSENT_BYTES = 1 << 17
"""No more than that waits in the kernel to be sent: the answer is waited for from when the last of
it was taken, and must not be given up while a slow link still works through it."""
SHORT_BYTES = 1 << 26
"""The longest answer that is taken without memory set aside for it (a layout, say)."""
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `body` travels as it lies."""

    method: str
    path: str
    body: memoryview | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is empty where memory was set aside and filled up to `num_bytes`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    num_bytes: int


class BulkConnection:
    """Opens when it is first used, and again after it broke."""

    def __init__(self, door: Door, pace: Pace):
        self.door = door
        self.pace = pace
        self._http: http.client.HTTPConnection | None = None
        self._place = 0
        self._sock: socket.socket | None = None
        self._aborted = False

    def ask(self, request: Request, into: memoryview | None = None) -> Answer:
        """Send a request and read its answer.

        A kept connection may have been closed meanwhile: then once more on a fresh one.
        """
        if self._place != self.door.where.place:
            self.close()
        fresh = self._http is None
        try:
            return self._ask(request, into)
        except LinkBrokenError:
            if fresh:
                raise
        return self._ask(request, into)

    def close(self) -> None:
        """Let the connection go."""
        connection, self._http = self._http, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """From another thread: whoever reads or writes wakes up at once, to a broken link."""
        self._aborted = True
        sock = self._sock
        if sock is not None:
            break_off(sock)

    def follow(self) -> None:
        """From another thread: what was opened before control came back may lead nowhere.

        A half-open connection would be waited for until `stall_s`; the request goes out again.
        """
        sock = self._sock
        if sock is not None:
            break_off(sock)

    def _broken(self, error: Exception) -> LinkBrokenError:
        self.close()
        self.door.where.leave(self._place, len(self.door.addresses))
        return LinkBrokenError(f"{self.door}: {_words(error)}")

    def _ask(self, request: Request, into: memoryview | None) -> Answer:
        if self._aborted:
            raise GivenUpError("this island has left")
        connection = self._http or self._open()
        try:
            broke = self._send(connection, request)
            response = connection.getresponse()
        except _BROKEN as error:
            raise self._broken(error) from error
        try:
            answer = _read(response, into)
        except _BROKEN as error:
            raise self._broken(error) from error
        if broke or response.will_close or not response.isclosed():
            self.close()
        if answer.status >= 300:
            raise _refusal(answer)
        return answer

    def _send(self, connection: http.client.HTTPConnection, request: Request) -> bool:
        """True: it broke on the way; there may be an answer all the same, saying why."""
        body = memoryview(request.body)
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in {**self.door.headers(), **request.headers}.items():
            connection.putheader(name, value)
        if body.nbytes or request.method != "GET":
            connection.putheader("Content-Length", str(body.nbytes))
        connection.endheaders()
        step = self.pace.slice_bytes(SLICE_BYTES)
        try:
            for start in range(0, body.nbytes, step):
                part = body[start : start + step]
                self.pace.take(part.nbytes)
                _send_all(connection.sock, part)
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    def _open(self) -> http.client.HTTPConnection:
        addresses, where = self.door.addresses, self.door.where
        trouble, first = "", where.place
        for turn in range(len(addresses)):
            place = (first + turn) % len(addresses)
            connection = _connection(self.door, addresses[place])
            try:
                connection.connect()
            except _BROKEN as error:
                connection.close()
                trouble = f"{addresses[place]}: {_words(error)}"
                continue
            _settle(connection.sock, self.door.stall_s)
            self._place, self._http, self._sock = place, connection, connection.sock
            where.found(place)
            if where.place == place:
                return connection
            self.close()  # control stands elsewhere: whoever is here does not serve
            trouble = f"{addresses[place]}: the syncer is at {addresses[where.place]} now"
        raise LinkBrokenError(trouble)


def _connection(door: Door, address: Address) -> http.client.HTTPConnection:
    at = door.proxy or address
    connection: http.client.HTTPConnection
    if door.tls is None:
        connection = http.client.HTTPConnection(at.host, at.port, timeout=door.connect_s)
    else:
        connection = http.client.HTTPSConnection(
            at.host, at.port, timeout=door.connect_s, context=door.tls
        )
    if door.proxy is not None:
        connection.set_tunnel(address.host, address.port)
    return connection


def _settle(sock: socket.socket, stall_s: float) -> None:
    keep_from_children(sock)
    sock.settimeout(stall_s)
    ask_for_bbr(sock)
    _keep_little_unsent(sock)


def break_off(sock: socket.socket) -> None:
    """End both ways of a connection that another thread uses, TLS or not."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS would first forget its state


def ask_for_bbr(sock: socket.socket) -> None:
    """Congestion control that does not take every lost packet for a full link, where there is."""
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, b"bbr")
    except OSError:
        return  # the kernel does not have it, or does not let us


def _send_all(sock: socket.socket, part: memoryview) -> None:
    """As `sendall`, whose time-out is for all of it; here it is for the next bytes that move."""
    most = SEND_BYTES if isinstance(sock, ssl.SSLSocket) else part.nbytes
    sent = 0
    while sent < part.nbytes:
        sent += sock.send(part[sent : sent + most])


def _keep_little_unsent(sock: socket.socket) -> None:
    """Or a whole part would lie in the kernel, and its answer be waited for since it came there."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)


def _read(response: http.client.HTTPResponse, into: memoryview | None) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    if into is None or response.status >= 300:
        body = response.read(SHORT_BYTES)
        return Answer(response.status, headers, body, len(body))
    length = response.length
    if length is None or length > into.nbytes:
        raise http.client.HTTPException(f"{length} bytes came where {into.nbytes} were asked for")
    filled = 0
    while filled < length:
        count = response.readinto(into[filled : min(length, filled + SLICE_BYTES)])
        if count == 0:
            raise http.client.HTTPException(f"the answer broke off after {filled} of {length}")
        filled += count
    response.read()
    return Answer(response.status, headers, b"", filled)


def _refusal(answer: Answer) -> RefusedError:
    code, sentence = "", ""
    try:
        plain = json.loads(answer.body or b"{}")
        code, sentence = str(plain.get("code", "")), str(plain.get("sentence", ""))
    except (ValueError, AttributeError):
        pass
    reason = http.client.responses.get(answer.status, "refused")
    again = answer.headers.get("retry-after", "")
    after_s = float(again) if again.isdigit() else 0.0
    return RefusedError(answer.status, code, sentence or f"the syncer says: {reason}", after_s)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
