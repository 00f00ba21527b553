"""Bytes on their way in: parcels (contributions and version 0) that come in parts.

The exact size of a parcel is known from layout and codec before memory is taken, and all memory
together is bounded. A part is checked in memory of its own before it touches the parcel, so a
broken one leaves no trace. Must never give memory back that a worker still reads or writes: pins
count them. Safe for threads. Keeps invariant 6.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from zlib import crc32

from atoll.core.ids import Cut, TransferId
from atoll.merge.averaging import PieceSums
from atoll.syncer.errors import RefusedError

PART_BYTES = 4 << 20
FATES_KEPT = 4096
MERGED = "merged"
_INNER = "inner:"

Place = tuple[str, int]
"""A cut's name, `initial:` and the initialiser's life, or `inner:` and a transfer of inner state;
and the fragment's number.
"""


def inner_place(transfer: TransferId, index: int) -> Place:
    """Where inner state lies on its way to an heir."""
    return (f"{_INNER}{transfer}", index)


def num_parts(num_bytes: int) -> int:
    """An empty body is one empty part."""
    return max(1, -(-num_bytes // PART_BYTES))


def part_size(num_bytes: int, index: int) -> int:
    """The exact size of one part; the last one is shorter."""
    return min(PART_BYTES, num_bytes - index * PART_BYTES)


@dataclass(eq=False)
class Parcel:
    """One body under one name. `crcs` are of the parts that are here, `claims` also of those being
    copied; `sealed`: complete, checked and handed to its shard.
    """

    place: Place
    num_bytes: int
    buffer: bytearray
    touched_s: float
    claims: dict[int, int] = field(default_factory=dict)
    crcs: dict[int, int] = field(default_factory=dict)
    sealed: bool = False
    dropped: bool = False
    pins: int = 0
    cut: Cut | None = None
    sums: PieceSums | None = None
    sha256: str = ""
    """Of the whole body, once it was found to be what its sender said."""

    @property
    def missing(self) -> list[int]:
        """The parts that have not come."""
        return [i for i in range(num_parts(self.num_bytes)) if i not in self.crcs]

    @property
    def body(self) -> memoryview:
        """All bytes; only for whoever holds a pin."""
        return memoryview(self.buffer)[: self.num_bytes]


class Intake:
    """All parcels, and the memory they share."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._lock = threading.Lock()
        self._parcels: dict[Place, Parcel] = {}
        self._fates: OrderedDict[Place, tuple[str, str]] = OrderedDict()
        self._free: dict[int, list[bytearray]] = {}
        self._free_bytes = 0

    # ------------------------------------------------------------ memory

    def _take(self, num_bytes: int) -> bytearray:
        """Memory of this size, a kept piece where there is one; caller holds the lock."""
        if self.used_bytes + num_bytes > self.limit_bytes:
            text = f"{self.used_bytes} of {self.limit_bytes} bytes for contributions are taken"
            raise RefusedError(503, "memory", f"{text}: try again", 1)
        self.used_bytes += num_bytes
        kept = self._free.get(num_bytes)
        if kept:
            self._free_bytes -= num_bytes
            return kept.pop()
        self._evict(num_bytes)
        return bytearray(num_bytes)

    def _give(self, buffer: bytearray) -> None:
        self.used_bytes -= len(buffer)
        self._free.setdefault(len(buffer), []).append(buffer)
        self._free_bytes += len(buffer)

    def _evict(self, room_bytes: int) -> None:
        """Kept pieces of other sizes go before the limit is passed."""
        for size in list(self._free):
            pieces = self._free[size]
            over = self.used_bytes + self._free_bytes - self.limit_bytes
            while pieces and over > 0:
                pieces.pop()
                self._free_bytes -= size
                over -= size
            if not pieces:
                del self._free[size]
        assert room_bytes >= 0 and self._free_bytes >= 0

    @contextmanager
    def scratch(self, num_bytes: int) -> Iterator[memoryview]:
        """Memory for one part on its way in."""
        with self._lock:
            buffer = self._take(num_bytes)
        try:
            yield memoryview(buffer)
        finally:
            with self._lock:
                self._give(buffer)

    # ------------------------------------------------------------ parcels

    def find(self, place: Place) -> Parcel | None:
        """The parcel under a name."""
        with self._lock:
            return self._parcels.get(place)

    def open(self, place: Place, num_bytes: int, now_s: float) -> Parcel:
        """The parcel under a name, begun if it is not there; RefusedError without room."""
        with self._lock:
            parcel = self._parcels.get(place)
            if parcel is None:
                parcel = Parcel(place, num_bytes, self._take(num_bytes), now_s)
                self._parcels[place] = parcel
            return parcel

    @contextmanager
    def pinned(self, parcel: Parcel) -> Iterator[None]:
        """While it is read or written its memory stays."""
        with self._lock:
            if parcel.dropped:
                raise RefusedError(409, "stale", "this upload was given up meanwhile: begin again")
            parcel.pins += 1
        try:
            yield
        finally:
            self._unpin(parcel)

    def _unpin(self, parcel: Parcel) -> None:
        with self._lock:
            parcel.pins -= 1
            if parcel.dropped and parcel.pins == 0:
                self._give(parcel.buffer)

    def keep(self, parcel: Parcel, index: int, body: memoryview, crc: int) -> None:
        """Check one part and take it over; on a worker, with a pin. RefusedError if it is bad."""
        found = crc32(body)
        if found != crc:
            text = f"part {index} has crc32 {found:08x}, not {crc:08x}: send it again"
            raise RefusedError(422, "checksum", text)
        with self._lock:
            kept = parcel.claims.get(index)
            if kept is not None and kept != found:
                raise RefusedError(409, "conflict", f"other bytes are kept for part {index}")
            if kept is not None or parcel.dropped:
                return
            # Claimed before it is copied: of two equal parts at once the second changes nothing.
            parcel.claims[index] = found
        start = index * PART_BYTES
        parcel.body[start : start + body.nbytes] = body
        parcel.crcs[index] = found

    def seal(self, parcel: Parcel, cut: Cut, sums: PieceSums) -> None:
        """Complete and good: from now on it belongs to its shard."""
        with self._lock:
            parcel.cut, parcel.sums, parcel.sealed = cut, sums, True

    def inner_bytes(self) -> int:
        """Memory that inner state takes on its way to heirs."""
        with self._lock:
            parcels = [each for each in self._parcels.values() if each.place[0].startswith(_INNER)]
            return sum(each.num_bytes for each in parcels)

    def complete(self, parcel: Parcel) -> None:
        """Complete and good: it waits for its heir, and is not forgotten for being idle."""
        with self._lock:
            parcel.sealed = True

    def drop(self, place: Place, code: str, sentence: str) -> None:
        """Nobody needs these bytes any more; what became of them is remembered for a while."""
        with self._lock:
            parcel = self._parcels.pop(place, None)
            if parcel is not None:
                parcel.dropped = True
                if parcel.pins == 0:
                    self._give(parcel.buffer)
            if code:
                self._fates[place] = (code, sentence)
                while len(self._fates) > FATES_KEPT:
                    self._fates.popitem(last=False)

    def fate(self, place: Place) -> tuple[str, str]:
        """What became of a parcel that is gone; an empty code if nothing is known."""
        with self._lock:
            return self._fates.get(place, ("", ""))

    def forget_older(self, learner: str, place: Place) -> None:
        """A newer cut of the same learner and fragment begins: unfinished ones before it end."""
        with self._lock:
            older = [
                each.place
                for each in self._parcels.values()
                if not each.sealed
                and each.place[1] == place[1]
                and each.place[0].partition(".")[0] == learner
                and _rank(each.place) < _rank(place)
            ]
        for each in older:
            self.drop(each, "replaced", f"the upload of {place[0]} has begun")

    def forget_idle(self, before_s: float) -> list[Place]:
        """Uploads that have stopped; returns which."""
        with self._lock:
            idle = [
                each.place
                for each in self._parcels.values()
                if not each.sealed and each.pins == 0 and each.touched_s < before_s
            ]
        for place in idle:
            self.drop(place, "", "")
        return idle

    def sizes(self) -> dict[str, int]:
        """For the status page."""
        with self._lock:
            sealed = len([1 for each in self._parcels.values() if each.sealed])
            return {
                "limit_bytes": self.limit_bytes,
                "used_bytes": self.used_bytes,
                "arriving": len(self._parcels) - sealed,
                "waiting": sealed,
            }


def _rank(place: Place) -> tuple[int, int]:
    _, incarnation, number = place[0].split(".")
    return int(incarnation), int(number)
