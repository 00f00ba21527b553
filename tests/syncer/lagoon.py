"""A syncer on the loopback, and a scripted raw client: http.client and a blocking WebSocket.

The client knows nothing of the ferry: it says what the protocol's page says, byte by byte.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

from atoll.access.tokens import Role, Secret, authorization
from atoll.core import messages as msg
from atoll.core.coordinator_state import RunSettings
from atoll.core.ids import Cut, CutId
from atoll.core.settings import ProtocolSettings
from atoll.fragments import Layout, TensorSpec
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.averaging import AveragingSettings
from atoll.merge.codecs import encode
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import PENDING_LAYOUT, ServiceSettings, SyncerSettings
from atoll.wire.frames import FROM_SYNCER, decode
from atoll.wire.frames import encode as frame_of

SECRET = Secret("s" * 43)
RUN = "lagoon-test"
ROOT = f"/atoll/v1/{RUN}"
PART = 4 << 20
DEADLINE_S = 20.0


def layout_of(P: int = 2, rows: int = 8) -> Layout:
    specs = [TensorSpec(f"t{i}", (rows, 16), "matrix") for i in range(P)]
    return Layout.from_specs(specs, P)


def settings_of(
    M: int = 1, P: int = 2, budget_tokens: int = 10**9, **service: Any
) -> SyncerSettings:
    times = {"beat_s": 0.5, "silence_s": 5.0, "first_round_s": 2.0}
    protocol = ProtocolSettings(M=M, P=P, H=max(2, P), K=M, receipt="keep", **times)
    run = RunSettings(RUN, PENDING_LAYOUT, budget_tokens, lease_s=5.0, last_round_s=1.0)
    outer = OuterSettings("nesterov", lr=0.7, momentum=0.9, ramp_merges=0)
    merge = MergeSettings(AveragingSettings("rda"), outer)
    return SyncerSettings(run, protocol, merge, ServiceSettings(**service))


@contextmanager
def serving(root: Path, settings: SyncerSettings, **options: Any) -> Iterator[SyncerService]:
    service = SyncerService(settings, SyncerOptions(root, SECRET, **options))
    service.start()
    try:
        yield service
        if service.error is not None:
            raise service.error
    finally:
        service.stop()


def until(wanted: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        found = wanted()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {deadline_s} s: {what}")


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def plain(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.plain["code"])


@dataclass
class Http:
    """One kept connection."""

    port: int
    host: str = "127.0.0.1"
    role: Role = Role.LEARNER
    tls: ssl.SSLContext | None = None
    _connection: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        said = {"Authorization": authorization(SECRET, self.role), "Atoll-Protocol": "1"}
        said.update(headers or {})
        if self._connection is None:
            if self.tls:
                self._connection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=20, context=self.tls
                )
            else:
                self._connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            self._connection.request(method, path, body, {k: v for k, v in said.items() if v})
            reply = self._connection.getresponse()
            data = reply.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if reply.will_close:
            self.close()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, data)

    def status(self) -> Any:
        return self.ask("GET", "/api/status").plain

    def put_parts(self, path: str, body: bytes) -> None:
        for index in range(max(1, -(-len(body) // PART))):
            part = body[index * PART : (index + 1) * PART]
            reply = self.ask("PUT", f"{path}/parts/{index}", part, crc_of(part))
            assert reply.status == 204, (reply.status, reply.body)

    def commit(self, path: str, codec: str, body: bytes, cut: Cut | None = None) -> Reply:
        said: dict[str, Any] = {"codec": codec, "bytes": len(body), "sha256": sha(body)}
        if cut is not None:
            said["cut"] = asdict(cut)
        return self.ask("POST", f"{path}/commit", json.dumps(said).encode())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def crc_of(body: bytes) -> dict[str, str]:
    return {"Atoll-Crc32": f"{crc32(body):08x}"}


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    return bytes(byte_view(tensor.contiguous()))


@contextmanager
def control_of(
    port: int, tls: ssl.SSLContext | None = None, **headers: str
) -> Iterator[ClientConnection]:
    said = {"Authorization": authorization(SECRET, Role.LEARNER), "Atoll-Protocol": "1", **headers}
    scheme, host = ("wss", "localhost") if tls else ("ws", "127.0.0.1")
    with connect(
        f"{scheme}://{host}:{port}{ROOT}/control",
        additional_headers={name: value for name, value in said.items() if value},
        compression=None,
        proxy=None,
        ssl=tls,
    ) as socket:
        yield socket


@dataclass
class Client:
    """One learner, scripted."""

    port: int
    name: str = "a"
    process: str = "p1"
    layout: Layout = field(default_factory=layout_of)
    tls: ssl.SSLContext | None = None
    incarnation: int = 0
    tokens: int = 0
    step: int = 0
    cuts: int = 0
    heard: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = Http(self.port, "localhost" if self.tls else "127.0.0.1", tls=self.tls)

    # ------------------------------------------------------------ control

    def bring_layout(self) -> Reply:
        return self.http.ask("PUT", f"{ROOT}/layout", json.dumps(self.layout.to_dict()).encode())

    def greet(self) -> None:
        """Connect and say hello."""
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(control_of(self.port, self.tls))
        self.say(msg.Hello(self.name, self.process, self.layout.fingerprint(), self.incarnation))

    def hello(self) -> msg.Welcome:
        self.greet()
        welcome: msg.Welcome = self.expect(msg.Welcome)
        self.incarnation = welcome.incarnation
        return welcome

    def say(self, message: object, party: str = "coordinator") -> None:
        self.socket.send(frame_of(party, message))

    def expect(self, kind: type, **fields: Any) -> Any:
        """The next message of a kind with these fields; what comes before it is kept in `heard`."""
        end_s = time.monotonic() + DEADLINE_S
        while True:
            frame = self.socket.recv(timeout=max(0.01, end_s - time.monotonic()))
            _, message = decode(frame, 1 << 24, FROM_SYNCER)
            self.heard.append(message)
            if isinstance(message, kind) and all(
                getattr(message, name) == value for name, value in fields.items()
            ):
                return message

    def expect_call(self, shard: int = 0, num_shards: int = 2) -> msg.Call:
        """The first call of a shard, heard already or next."""
        for message in self.heard:
            if isinstance(message, msg.Call) and message.fragment % num_shards == shard:
                return message
        while True:
            call: msg.Call = self.expect(msg.Call)
            if call.fragment % num_shards == shard:
                return call

    def train(self, steps: int = 1, tokens: int = 100, pace_s: float = 0.05) -> None:
        for _ in range(steps):
            self.step += 1
            self.tokens += tokens
            report = msg.Report(self.name, self.incarnation, self.step, self.tokens, pace_s)
            for party in ("coordinator", "shard-0"):
                self.say(report, party)

    def leave(self) -> None:
        for party in ("coordinator", "shard-0"):
            self.say(msg.Leave(self.name, self.incarnation, "done"), party)
        self.close()

    def close(self) -> None:
        self._stack.close()
        self.http.close()

    # ------------------------------------------------------------ bulk

    def initial(self, theta: dict[int, Tensor]) -> None:
        for fragment, values in theta.items():
            body, path = bytes_of(values), f"{ROOT}/initial/{fragment}"
            self.http.put_parts(path, body)
            reply = self.http.commit(path, "fp32", body)
            assert reply.status == 202, reply.body
        self.say(msg.InitialOffered(self.name, self.incarnation))

    def cut(self, call: msg.Call | None, fragment: int, base: int, first_token: int) -> Cut:
        self.cuts += 1
        id = CutId(self.name, self.incarnation, self.cuts)
        number = call.number if call else 0
        steps = max(1, (self.tokens - first_token) // 100)
        return Cut(id, fragment, base, first_token, self.tokens, steps, number, self.step)

    def contribute(self, cut: Cut, values: Tensor) -> Reply:
        body, path = bytes_of(encode("bf16", values)), place(cut)
        self.http.put_parts(path, body)
        return self.http.commit(path, "bf16", body, cut)

    def fetch(self, fragment: int, base: int | None = None) -> Reply:
        query = "" if base is None else f"?base={base}"
        return self.http.ask("GET", f"{ROOT}/fragments/{fragment}{query}")


def place(cut: Cut) -> str:
    return f"{ROOT}/contributions/{cut.id}/{cut.fragment}"


def thetas(layout: Layout, seed: int = 0) -> dict[int, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {p: torch.randn(f.numel, generator=dice) for p, f in enumerate(layout.fragments)}


def begun(service_port: int, name: str = "a", layout: Layout | None = None) -> Client:
    """A learner that has brought layout and version 0, and was told to begin."""
    client = Client(service_port, name, layout=layout or layout_of())
    assert client.bring_layout().status in (200, 201)
    client.hello()
    client.expect(msg.Initialise)
    client.initial(thetas(client.layout))
    client.expect(msg.Begin)
    return client


@dataclass
class Merger:
    """Rounds with one learner: what it trained, by fragment."""

    client: Client
    through: dict[int, int] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)

    def round(self, value: float = 0.01) -> msg.Published:
        """Train until a fragment is called, contribute, and wait for the new version."""
        client = self.client
        call = None
        while call is None:
            client.train(1)
            try:
                frame = client.socket.recv(timeout=0.2)
            except TimeoutError:
                continue
            _, message = decode(frame, 1 << 24, FROM_SYNCER)
            client.heard.append(message)
            call = message if isinstance(message, msg.Call) else None
        p = call.fragment
        base = self.versions.get(p, 0)
        cut = client.cut(call, p, base, self.through.get(p, 0))
        client.say(msg.Announce(cut), "shard-0")
        numel = client.layout.fragments[p].numel
        reply = client.contribute(cut, torch.full((numel,), value) + torch.arange(numel) / 1e4)
        assert reply.status == 202, reply.body
        published: msg.Published = client.expect(msg.Published, fragment=p, version=base + 1)
        self.through[p], self.versions[p] = cut.end_token, published.version
        return published
