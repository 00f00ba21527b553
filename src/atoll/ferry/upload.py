"""Sending: a cut's encoded displacement, or a fragment of version 0, in parts, then `commit`.

Runs in a transfer thread. Sends only what the syncer lacks, so a broken upload goes on where it
was. Must never change the bytes of a cut between tries: they are encoded once. The outcome is one
of three: it is there, try again later, or the syncer does not want it any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec
from torch import Tensor

from atoll.core.ids import Cut, TransferId
from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import Door
from atoll.ferry.errors import FerryError, GivenUpError, LinkBrokenError, RefusedError
from atoll.ferry.parts import LoneCarrier, PartCarrier, num_parts, part_of
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.codecs import Codec

TRIES = 3
"""At once, after a connection broke; then the core decides when to try again."""
CRC_HEADER = "Atoll-Crc32"
PASSING = ("checksum", "missing")
"""Refusals that sending what is missing, or the same part once more, can mend."""


@dataclass(frozen=True)
class Parcel:
    """A body under one name: where its parts go, and what is said to close it."""

    place: tuple[str | int, ...]
    body: memoryview
    commit: bytes


def contribution(cut: Cut, codec: Codec, payload: Tensor) -> Parcel:
    """The parcel of a cut."""
    body = byte_view(payload)
    said = {
        "cut": msgspec.to_builtins(cut),
        "codec": codec,
        "bytes": body.nbytes,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    place = ("contributions", str(cut.id), cut.fragment)
    return Parcel(place, body, json.dumps(said).encode())


def initial(fragment: int, values: Tensor) -> Parcel:
    """The parcel of a fragment of version 0."""
    body = byte_view(values)
    said: dict[str, Any] = {
        "codec": "fp32",
        "bytes": body.nbytes,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return Parcel(("initial", fragment), body, json.dumps(said).encode())


def inner(transfer: TransferId, index: int, body: memoryview) -> Parcel:
    """The parcel of a fragment's inner state; its size is part of the name."""
    said = {"codec": "inner", "bytes": body.nbytes, "sha256": hashlib.sha256(body).hexdigest()}
    place = ("inner", str(transfer), index, body.nbytes)
    return Parcel(place, body, json.dumps(said).encode())


class Uploader:
    """Sends parcels through the connections of a few threads."""

    def __init__(self, door: Door, carrier: PartCarrier | LoneCarrier):
        self.door = door
        self.carrier = carrier

    def send(
        self, own: BulkConnection, parcel: Parcel, wanted: Callable[[], bool], again: bool
    ) -> None:
        """Send what is missing and commit. Raises LinkBrokenError, RefusedError or GivenUpError."""
        missing = list(range(num_parts(parcel.body.nbytes)))
        if again:
            missing = self._missing(own, parcel)
        for turn in range(1, TRIES + 1):
            try:
                self._send_parts(own, parcel, missing, wanted)
                self._commit(own, parcel)
            except FerryError as error:
                if turn == TRIES or not _worth_another(error):
                    raise
                missing = self._missing(own, parcel)
            else:
                return

    def send_initial(self, own: BulkConnection, parcel: Parcel, wanted: Callable[[], bool]) -> None:
        """As `send`; where version 0 is durable already, only whether it is the same."""
        try:
            self.send(own, parcel, wanted, again=False)
        except RefusedError as refused:
            if refused.code != "conflict":
                raise
            self._commit(own, parcel)

    def _send_parts(
        self, own: BulkConnection, parcel: Parcel, parts: list[int], wanted: Callable[[], bool]
    ) -> None:
        def send_part(connection: BulkConnection, index: int) -> None:
            if not wanted():
                raise GivenUpError("nobody wants this cut any more")
            body = part_of(parcel.body, index)
            path = self.door.path(*parcel.place, "parts", index)
            headers = {CRC_HEADER: f"{crc32(body):08x}"}
            connection.ask(Request("PUT", path, body, headers))

        self.carrier.carry(own, parts, send_part)

    def _commit(self, own: BulkConnection, parcel: Parcel) -> None:
        path = self.door.path(*parcel.place, "commit")
        headers = {"Content-Type": "application/json"}
        own.ask(Request("POST", path, parcel.commit, headers))

    def _missing(self, own: BulkConnection, parcel: Parcel) -> list[int]:
        """The parts that the syncer does not have; all, where it cannot say."""
        every = range(num_parts(parcel.body.nbytes))
        try:
            answer = own.ask(Request("GET", self.door.path(*parcel.place, "parts")))
            there = set(json.loads(answer.body)["parts"])
        except RefusedError as refused:
            if refused.status != 404:
                raise
            return list(every)
        except (ValueError, KeyError, TypeError) as error:
            raise LinkBrokenError(f"the list of parts cannot be read: {error}") from error
        return [index for index in every if index not in there]


def _worth_another(error: FerryError) -> bool:
    if isinstance(error, RefusedError):
        return error.code in PASSING
    return isinstance(error, LinkBrokenError)


def is_final(error: FerryError) -> bool:
    """The syncer will not take these bytes, however often they are sent."""
    if isinstance(error, GivenUpError):
        return True
    if not isinstance(error, RefusedError) or error.may_pass:
        return False
    return error.status in (409, 410, 413, 422) and error.code not in PASSING
