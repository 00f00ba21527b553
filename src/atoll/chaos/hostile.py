"""Somebody who knows the invite and sends what is not what it says: must be refused and counted.

Speaks the real protocol over real sockets, under a name of its own. Must never harm a run that
refuses it: whatever is believed is said in the answer. Raises what connections raise when nobody
answers: then nothing was tried.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from zlib import crc32

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from atoll.access.invite import Invite
from atoll.access.tokens import new_secret
from atoll.core import messages as msg
from atoll.core.ids import COORDINATOR, Cut, CutId, shard_of, shard_party
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import Door, door_of
from atoll.ferry.errors import RefusedError
from atoll.ferry.pace import Pace
from atoll.ferry.parts import num_parts, part_of
from atoll.ferry.terms import RunTerms, terms_from
from atoll.ferry.upload import CRC_HEADER
from atoll.fragments import Layout
from atoll.merge.codecs import encoded_bytes
from atoll.wire.frames import FROM_SYNCER, decode, encode

TALK_S = 10.0
FRAME_BYTES = 1 << 24
NO_LIFE = 1
NOT_A_NUMBER = b"\xff"
"""Not a number in every codec, as a value or as a scale."""
INTERNAL_ERROR = 500


@dataclass(frozen=True, slots=True)
class Lie:
    """What was sent, what came back, and whether that is a refusal."""

    what: str
    answer: str
    refused: bool


@dataclass(slots=True)
class _Stranger:
    """A way in, and what the run looks like."""

    name: str
    door: Door
    bulk: BulkConnection
    terms: RunTerms
    layout: Layout


def send_garbage(invite: Invite, name: str) -> list[Lie]:
    """Broken parts, commits and frames, and a wrong secret."""
    me = _come_in(invite, name)
    size = encoded_bytes(me.terms.uplink, me.layout.fragments[0].numel)
    body, place = b"\xa5" * size, ("contributions", f"{name}.{NO_LIFE}.1", 0)
    part = me.door.path(*place, "parts", 0)
    said = {"cut": {"id": name}, "codec": "bf16", "bytes": 3, "sha256": "none"}
    first = bytes(part_of(memoryview(body), 0))
    other = door_of(Invite(invite.run, invite.addresses, invite.ca_pem, new_secret()))
    stranger = BulkConnection(other, Pace())
    lies = [
        _ask(me.bulk, "a wrong checksum", Request("PUT", part, first, {CRC_HEADER: "00000000"})),
        _ask(me.bulk, "a part too long", Request("PUT", part, first + b"x", _crc(first + b"x"))),
        _ask(me.bulk, "a commit of nothing", _commit(me.door, place, said)),
        _ask(me.bulk, "a cut without a name", Request("PUT", me.door.path("contributions", "x"))),
        _ask(stranger, "a wrong secret", Request("GET", me.door.path("layout"))),
        _broken_frame(me.door),
    ]
    for connection in (me.bulk, stranger):
        connection.close()
    return lies


def send_nan(invite: Invite, name: str) -> list[Lie]:
    """Join, announce a cut, and upload what is not a number; then leave."""
    me = _come_in(invite, name)
    try:
        with _control(me.door) as socket:
            return _contribute_nan(me, socket)
    finally:
        me.bulk.close()


def _contribute_nan(me: _Stranger, socket: ClientConnection) -> list[Lie]:
    socket.send(encode(COORDINATOR, msg.Hello(me.name, me.name, me.layout.fingerprint())))
    welcome = _hear(socket)
    fragment = 0
    shard = shard_party(shard_of(fragment, welcome.num_shards))
    cut = Cut(CutId(me.name, welcome.incarnation, 1), fragment, 0, 0, 100, 1, 0, 1)
    size = encoded_bytes(me.terms.uplink, me.layout.fragments[fragment].numel)
    body = memoryview(NOT_A_NUMBER * size)
    socket.send(encode(shard, msg.Announce(cut)))
    place = ("contributions", str(cut.id), fragment)
    lies = []
    for index in range(num_parts(body.nbytes)):
        part = bytes(part_of(body, index))
        request = Request("PUT", me.door.path(*place, "parts", index), part, _crc(part))
        sent = _ask(me.bulk, "a part of it", request)
        lies += [sent] if sent.refused else []
    said = {"cut": msgspec.to_builtins(cut), "codec": me.terms.uplink, "bytes": body.nbytes}
    said["sha256"] = hashlib.sha256(body).hexdigest()
    lies.append(_ask(me.bulk, "not a number", _commit(me.door, place, said)))
    socket.send(encode(COORDINATOR, msg.Leave(me.name, welcome.incarnation, "it has lied")))
    for party in range(welcome.num_shards):
        leave = msg.Leave(me.name, welcome.incarnation, "it has lied")
        with suppress(ConnectionClosed):
            socket.send(encode(shard_party(party), leave))
    return lies


def _come_in(invite: Invite, name: str) -> _Stranger:
    door = door_of(invite)
    bulk = BulkConnection(door, Pace())
    terms = terms_from(json.loads(bulk.ask(Request("GET", door.path("settings"))).body))
    layout = Layout.from_dict(json.loads(bulk.ask(Request("GET", door.path("layout"))).body))
    return _Stranger(name, door, bulk, terms, layout)


def _ask(connection: BulkConnection, what: str, request: Request) -> Lie:
    try:
        answer = connection.ask(request)
    except RefusedError as refused:
        if refused.may_pass and refused.status != INTERNAL_ERROR:
            raise
        said = f"{refused.status} {refused.code}".strip()
        return Lie(what, said, refused=refused.status < INTERNAL_ERROR)
    return Lie(what, str(answer.status), refused=False)


def _crc(body: bytes) -> dict[str, str]:
    return {CRC_HEADER: f"{crc32(body):08x}"}


def _commit(door: Door, place: tuple[str | int, ...], said: dict[str, object]) -> Request:
    headers = {"Content-Type": "application/json"}
    return Request("POST", door.path(*place, "commit"), json.dumps(said).encode(), headers)


def _control(door: Door) -> ClientConnection:
    scheme = "ws" if door.tls is None else "wss"
    return connect(
        f"{scheme}://{door.addresses[0]}{door.path('control')}",
        ssl=door.control_tls,
        additional_headers=door.headers(),
        proxy=None,
        compression=None,
        max_size=FRAME_BYTES,
        open_timeout=TALK_S,
    )


def _hear(socket: ClientConnection) -> msg.Welcome:
    while True:
        _, message = decode(socket.recv(timeout=TALK_S), FRAME_BYTES, FROM_SYNCER)
        if isinstance(message, msg.Rejected):
            raise RefusedError(403, message.code, message.sentence)
        if isinstance(message, msg.Welcome):
            return message


def _broken_frame(door: Door) -> Lie:
    what = "a frame that is no message"
    try:
        with _control(door) as socket:
            socket.send('["coordinator", "Hello", {"learner": 7}]')
            while True:
                socket.recv(timeout=TALK_S)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd is not None else 0
        return Lie(what, f"closed {code}", refused=True)
    except TimeoutError:
        return Lie(what, f"no answer within {TALK_S:g} s", refused=False)
