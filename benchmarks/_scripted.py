"""A learner that trains nothing: it speaks the protocol, with made-up displacements.

Bytes go through the ferry's own connections, uploader and downloader.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque

import msgspec
import torch
from torch import Tensor
from websockets.sync.client import connect

from atoll.access.invite import Invite
from atoll.core import messages as msg
from atoll.core.ids import COORDINATOR, Cut, CutId, shard_party
from atoll.ferry.bulk import BulkConnection
from atoll.ferry.door import door_of
from atoll.ferry.hall import Hall
from atoll.ferry.pace import Pace
from atoll.ferry.parts import PartCarrier
from atoll.ferry.upload import Parcel, Uploader, initial
from atoll.ferry.workers import Workers
from atoll.fragments import Layout, TensorSpec
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.codecs import encode
from atoll.wire.frames import FROM_SYNCER, decode
from atoll.wire.frames import encode as frame_of

SHARD = shard_party(0)
FRAME_BYTES = 1 << 24
JOIN_S = 60.0
STEP_TOKENS = 100


def layout_of(num_fragments: int, fragment_numel: int) -> Layout:
    """As many equal matrices as fragments."""
    assert fragment_numel % 1024 == 0
    shape = (fragment_numel // 1024, 1024)
    specs = [TensorSpec(f"t{index}", shape, "matrix") for index in range(num_fragments)]
    return Layout.from_specs(specs, num_fragments)


class Displacement:
    """One encoded displacement, used for every cut: only the learner's side is saved work."""

    def __init__(self, numel: int, seed: int = 0) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.payload = encode("bf16", 1e-3 * torch.randn(numel, generator=dice))
        self.body = byte_view(self.payload)
        self.sha256 = hashlib.sha256(self.body).hexdigest()

    def parcel(self, cut: Cut) -> Parcel:
        """As the ferry's, but the digest is not computed again."""
        said = {"cut": msgspec.to_builtins(cut), "codec": "bf16"}
        said |= {"bytes": self.body.nbytes, "sha256": self.sha256}
        place = ("contributions", str(cut.id), cut.fragment)
        return Parcel(place, self.body, json.dumps(said).encode())


class Scripted:
    """One learner over real sockets. `num_connections` is how many carry parts at once."""

    def __init__(self, invite: Invite, name: str, layout: Layout, num_connections: int = 1) -> None:
        self.door = door_of(invite)
        self.name = name
        self.layout = layout
        self.own = BulkConnection(self.door, Pace())
        self.crashes: list[BaseException] = []
        workers = Workers(
            num_connections, lambda: BulkConnection(self.door, Pace()), self.crashes.append
        )
        self.carrier = PartCarrier(workers)
        self.uploader = Uploader(self.door, self.carrier)
        self.incarnation = self.step = self.cuts = self.num_dropped = 0
        self.calls: deque[msg.Call] = deque()
        self.versions: dict[int, int] = {}
        self.digests: dict[int, str] = {}
        self.news: deque[int] = deque()
        """Fragments of which something newer was published."""
        self._through: dict[int, int] = {}
        self._begun = False

    # ------------------------------------------------------------ control

    def join(self, theta: Tensor) -> None:
        """Come in; `theta` becomes version 0 of each fragment where this learner is to give it."""
        hall = Hall(self.door, time.monotonic() + JOIN_S)
        hall.agree(self.layout)
        hall.close()
        scheme = "ws" if self.door.tls is None else "wss"
        self.socket = connect(
            f"{scheme}://{self.door.addresses[0]}{self.door.path('control')}",
            ssl=self.door.control_tls,
            additional_headers=self.door.headers(),
            proxy=None,
            compression=None,
            max_size=FRAME_BYTES,
            ping_interval=None,
            max_queue=None,  # what nobody hears must not keep pongs from being read
        )
        self.say(msg.Hello(self.name, f"process of {self.name}", self.layout.fingerprint()))
        while not self._begun:
            message = self.hear(JOIN_S)
            if isinstance(message, msg.Initialise):
                parcel_bytes = encode("fp32", theta)
                for fragment in range(self.layout.num_fragments):
                    parcel = initial(fragment, parcel_bytes)
                    self.uploader.send_initial(self.own, parcel, lambda: True)
                self.say(msg.InitialOffered(self.name, self.incarnation))

    def say(self, message: object, party: str = COORDINATOR) -> None:
        self.socket.send(frame_of(party, message))

    def hear(self, timeout_s: float) -> object:
        """The next message, taken into account. TimeoutError when none comes."""
        _, message = decode(self.socket.recv(timeout=timeout_s), FRAME_BYTES, FROM_SYNCER)
        match message:
            case msg.Welcome():
                self.incarnation = message.incarnation
                self._begun = message.ready
            case msg.Begin():
                self._begun = True
            case msg.Call():
                self.calls.append(message)
            case msg.Published():
                self.versions[message.fragment] = message.version
                self.digests[message.fragment] = message.digest
                self.news.append(message.fragment)
            case msg.Dropped():
                self.num_dropped += 1
            case msg.Rejected():
                raise RuntimeError(f"{self.name}: {message.code}: {message.sentence}")
            case _:
                pass
        return message

    def train(self) -> None:
        """One step, done in no time."""
        self.step += 1
        tokens = self.step * STEP_TOKENS
        report = msg.Report(self.name, self.incarnation, self.step, tokens, 0.05)
        for party in (COORDINATOR, SHARD):
            self.say(report, party)

    # ------------------------------------------------------------ bulk

    def next_cut(self, fragment: int, round: int = 0) -> Cut:
        """The next cut's name and counters."""
        self.cuts += 1
        id = CutId(self.name, self.incarnation, self.cuts)
        first, end = self._through.get(fragment, 0), self.step * STEP_TOKENS
        steps = max(1, (end - first) // STEP_TOKENS)
        base = self.versions.get(fragment, 0)
        return Cut(id, fragment, base, first, end, steps, round, self.step)

    def contribute(self, call: msg.Call, what: Displacement) -> None:
        """Answer a call, up to the commit."""
        cut = self.next_cut(call.fragment, call.number)
        self.say(msg.Announce(cut), SHARD)
        self.uploader.send(self.own, what.parcel(cut), lambda: True, again=False)
        self._through[call.fragment] = cut.end_token

    def close(self) -> None:
        self.socket.close()
        self.carrier.workers.stop(2.0)
        self.own.close()
