"""A small scripted syncer on the loopback: it does as it is told, and keeps what it is sent.

Bulk and control on one port. `rules` say what goes wrong with which request; each is used once.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

import msgspec
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.tokens import Role, authorization, new_secret
from atoll.core import messages as msg
from atoll.core.settings import ProtocolSettings
from atoll.merge.chain import Chain, FullCopy
from atoll.merge.codecs import Codec
from atoll.wire.frames import FROM_LEARNER, decode, encode

PART = 4 << 20


@dataclass
class Rule:
    """For the next request of `method` whose path holds `fragment`: answer so, or cut the line."""

    method: str
    fragment: str
    status: int = 0
    code: str = "scripted"
    cut_after_bytes: int = -1


class Control:
    """The far end of one control connection."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.protocol = ServerProtocol()
        self.lock = threading.Lock()

    def send(self, text: str) -> None:
        with self.lock:
            self.protocol.send_text(text.encode())
            self._flush()

    def frames(self) -> Iterator[str]:
        """Until the connection ends."""
        while data := self.sock.recv(1 << 16):
            with self.lock:
                self.protocol.receive_data(data)
                events = self.protocol.events_received()
                for event in events:
                    if isinstance(event, Request):
                        self.protocol.send_response(self.protocol.accept(event))
                self._flush()
            for event in events:
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    yield bytes(event.data).decode()
                elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                    return

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            self.sock.sendall(data)


@dataclass
class Lagoon:
    """What it holds, and what it was asked."""

    protocol: ProtocolSettings
    uplink: Codec = "fp32"
    downlink: Codec = "fp32"
    chains: dict[int, Chain] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    layout: dict[str, Any] | None = None
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    heard: list[object] = field(default_factory=list)
    on_message: Callable[[Lagoon, object], None] = lambda _lagoon, _message: None
    on_commit: Callable[[Lagoon, str], None] = lambda _lagoon, _place: None

    def __post_init__(self) -> None:
        self.secret = new_secret()
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.controls: list[Control] = []
        self.sockets: list[socket.socket] = []
        self.open = threading.Event()
        self.open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def invite(self) -> Invite:
        return Invite("reef", (Address("127.0.0.1", self.port),), "", self.secret)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self.open.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up whoever accepts
        except OSError:
            pass
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Every connection breaks."""
        with self.lock:
            sockets, self.sockets = self.sockets, []
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def say(self, message: object, party: str = "coordinator") -> None:
        """To every learner that is connected."""
        frame = encode(party, message)
        for control in list(self.controls):
            try:
                control.send(frame)
            except (OSError, InvalidState):
                pass

    def wait(self, until: Callable[[], bool], limit_s: float = 20.0) -> None:
        """Until something holds; checked whenever anything was asked or heard."""
        with self.changed:
            assert self.changed.wait_for(until, limit_s), "what was waited for never came"

    # ------------------------------------------------------------ connections

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            with self.lock:
                self.sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock, peer), daemon=True).start()

    def _serve(self, sock: socket.socket, peer: Any) -> None:
        try:
            first = sock.recv(200, socket.MSG_PEEK)
            if b"/control " in first:
                self._control(sock)
            else:
                _handler(self)(sock, peer, None)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            sock.close()

    def _control(self, sock: socket.socket) -> None:
        control = Control(sock)
        self.controls.append(control)
        try:
            for text in control.frames():
                self.open.wait()
                _, message = decode(text, kinds=FROM_LEARNER)
                with self.changed:
                    self.heard.append(message)
                    self.changed.notify_all()
                self.on_message(self, message)
        finally:
            self.controls.remove(control)

    # ------------------------------------------------------------ answers

    def rule_for(self, method: str, path: str) -> Rule | None:
        with self.lock:
            for rule in self.rules:
                if rule.method == method and rule.fragment in path:
                    self.rules.remove(rule)
                    return rule
        return None

    def settings(self) -> dict[str, Any]:
        return {
            "protocol": msgspec.to_builtins(self.protocol),
            "codecs": {"uplink": self.uplink, "downlink": self.downlink},
            "num_shards": 1,
            "strategy": "balanced",
            "seed": 7,
        }

    def news(self, fragment: int, base: int | None) -> tuple[int, str, str, bytes]:
        chain = self.chains[fragment]
        got = chain.catch_up(base)
        if isinstance(got, FullCopy):
            return got.version, got.digest, "full", _bytes(got.payload)
        body = b"".join(_bytes(each.payload) for each in got)
        return chain.published.version, chain.published.digest, "increments", body

    def body_of(self, place: str) -> bytes:
        parts = self.parts[place]
        return b"".join(parts[index] for index in sorted(parts))


def _bytes(payload: Any) -> bytes:
    return bytes(payload) if not hasattr(payload, "numpy") else payload.numpy().tobytes()


def greet(lagoon: Lagoon, message: object) -> None:
    """A run whose version 0 is there."""
    if isinstance(message, msg.Hello):
        lagoon.say(msg.Welcome(1, message.learner, 1, False, 1, True, message.process))
        for fragment, chain in lagoon.chains.items():
            published = chain.published
            lagoon.say(
                msg.Published(1, fragment, published.version, published.digest, ()), "shard-0"
            )


def _handler(lagoon: Lagoon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._do("GET")

        def do_PUT(self) -> None:
            self._do("PUT")

        def do_POST(self) -> None:
            self._do("POST")

        def _do(self, method: str) -> None:
            lagoon.open.wait()
            url = urlsplit(self.path)
            path = url.path.removeprefix("/atoll/v1/reef/")
            rule = lagoon.rule_for(method, path)
            length = int(self.headers.get("Content-Length", 0))
            if rule is not None and rule.cut_after_bytes >= 0 and method == "PUT":
                self.rfile.read(min(rule.cut_after_bytes, length))
                self._log(method, path)
                self._cut()
                return
            body = self.rfile.read(length)
            if self.headers["Authorization"] != authorization(lagoon.secret, Role.LEARNER):
                self._json(401, {"code": "uninvited", "sentence": "who are you"})
            elif rule is not None and rule.status:
                self._json(rule.status, {"code": rule.code, "sentence": f"scripted {rule.code}"})
            else:
                cut = rule.cut_after_bytes if rule is not None else -1
                self._answer(method, path, parse_qs(url.query), (body, cut))
            self._log(method, path)

        def _log(self, method: str, path: str) -> None:
            with lagoon.changed:
                lagoon.asked.append((method, path))
                lagoon.changed.notify_all()

        def _answer(
            self, method: str, path: str, query: dict[str, list[str]], given: tuple[bytes, int]
        ) -> None:
            body, cut = given
            place, _, last = path.rpartition("/")
            if path == "settings":
                self._json(200, lagoon.settings())
            elif path == "layout":
                self._layout(method, body)
            elif method == "PUT":
                self._part(place.removesuffix("/parts"), int(last), body)
            elif last == "parts":
                self._json(200, {"parts": sorted(lagoon.parts.get(place, {}))})
            elif last == "commit":
                self._commit(place, json.loads(body))
            else:
                base = int(query["base"][0]) if "base" in query else None
                self._version(int(last), base, cut)

        def _layout(self, method: str, body: bytes) -> None:
            if method == "PUT":
                lagoon.layout = json.loads(body)
                self._json(204, None)
            elif lagoon.layout is None:
                self._json(404, {"code": "no_layout", "sentence": "nobody brought one"})
            else:
                self._json(200, lagoon.layout)

        def _part(self, place: str, index: int, body: bytes) -> None:
            if f"{crc32(body):08x}" != self.headers["Atoll-Crc32"]:
                self._json(422, {"code": "checksum", "sentence": "not the bytes"})
                return
            with lagoon.lock:
                lagoon.parts.setdefault(place, {})[index] = body
            self._json(204, None)

        def _commit(self, place: str, said: dict[str, Any]) -> None:
            body = lagoon.body_of(place)
            good = said["sha256"] == hashlib.sha256(body).hexdigest() and len(body) == said["bytes"]
            lagoon.commits[place] = said
            self._json(202 if good else 422, None if good else {"code": "malformed"})
            if good:
                lagoon.on_commit(lagoon, place)

        def _version(self, fragment: int, base: int | None, cut: int) -> None:
            version, digest, form, body = lagoon.news(fragment, base)
            match = self.headers.get("If-Match")
            if match is not None and match != f'"{digest}"':
                self._json(412, {"code": "changed", "sentence": "a newer one is there"})
                return
            asked, status, part = self.headers.get("Range"), 200, body
            if asked and body:
                first, last = (int(x) for x in asked.removeprefix("bytes=").split("-"))
                part, status = body[first : last + 1], 206
            self.send_response(status)
            if status == 206:
                stop = first + len(part) - 1
                self.send_header("Content-Range", f"bytes {first}-{stop}/{len(body)}")
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Atoll-Version", str(version))
            self.send_header("Atoll-Form", form)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if 0 <= cut < len(part):
                self.wfile.write(part[:cut])
                self._cut()
            else:
                self.wfile.write(part)

        def _cut(self) -> None:
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

        def _json(self, status: int, plain: object) -> None:
            body = b"" if plain is None else json.dumps(plain).encode()
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
