"""The slow half of effects: encode and send, fetch and decode, in transfer threads.

Each outcome comes back as one record in the ferry's inbox; failures too. Must never touch the
core, nor the model's tensors (version 0 aside, which is read while `join` keeps training away).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.ids import Cut
from atoll.ferry.bulk import BulkConnection
from atoll.ferry.control import Crashed
from atoll.ferry.door import Door
from atoll.ferry.download import BadCopyError, Downloader, fetch_inner
from atoll.ferry.errors import FerryError, GivenUpError, RefusedError
from atoll.ferry.inner import InnerCopy, InnerState
from atoll.ferry.island import Island
from atoll.ferry.pace import Pace
from atoll.ferry.parts import LoneCarrier, PartCarrier
from atoll.ferry.staging import Staging
from atoll.ferry.terms import RunTerms
from atoll.ferry.upload import Parcel, Uploader, contribution, initial, inner, is_final
from atoll.ferry.workers import Workers
from atoll.fragments.inner import InnerStateError
from atoll.merge.chain import Published
from atoll.merge.codecs import Codec, decode, encode

NUM_CONNECTIONS = 6
INITIAL_PAUSE_S = 1.0


@dataclass(eq=False, slots=True)
class KeptCut:
    """A cut from its copy to its fate. `payload` is there once it was encoded."""

    fragment: int
    base: Published
    staging: Staging | None
    payload: Tensor | None = None
    wanted: bool = True
    tried: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accepted(self, codec: Codec, numel: int, scale: float) -> Tensor:
        """The displacement as everybody else decodes it, and as far as it was merged."""
        assert self.payload is not None, "a merged cut was encoded"
        decoded = decode(codec, self.payload, numel)
        return decoded if scale == 1.0 else decoded.mul_(scale)


@dataclass(frozen=True, slots=True)
class FetchedVersion:
    """A published version is here, checked."""

    fragment: int
    published: Published


@dataclass(frozen=True, slots=True)
class FetchedInner:
    """A peer's inner state of a fragment is here, checked."""

    order: fx.FetchInner
    body: memoryview


@dataclass(frozen=True, slots=True)
class InitialFailed:
    """A fragment of version 0 was not taken. `final`: it will not be."""

    fragment: int
    why: str
    final: bool


class Transfers:
    """Carries tensors for the ferry; `tell` takes the outcomes."""

    def __init__(self, door: Door, terms: RunTerms, island: Island, tell: Callable[[object], None]):
        self.terms = terms
        self.island = island
        self._tell = tell
        self._pace = Pace()
        self._door = door
        self._stopped = threading.Event()
        self.workers = Workers(NUM_CONNECTIONS, self._connect, lambda e: tell(Crashed(e)))
        carrier = self._carrier = PartCarrier(self.workers)
        self._up = Uploader(door, carrier)
        self._aside = Uploader(door, LoneCarrier())
        self._down = Downloader(door, carrier, terms.downlink)

    def limit(self, max_up_mbit_s: float) -> None:
        """Cap what leaves, before anything does."""
        self._pace = Pace(max_up_mbit_s)

    def _connect(self) -> BulkConnection:
        return BulkConnection(self._door, self._pace)

    def stop(self, limit_s: float) -> None:
        """Nobody waits for outcomes any more; threads end within the limit."""
        self._stopped.set()
        self.workers.stop(limit_s)

    def numel(self, fragment: int) -> int:
        """Values in a fragment."""
        return self.island.layout.fragments[fragment].numel

    # ------------------------------------------------------------ cuts

    def upload(self, cut: Cut, kept: KeptCut) -> None:
        """Encode, once, and send."""

        def task(connection: BulkConnection) -> None:
            self._tell(self._upload(connection, cut, kept))

        self.workers.submit(task)

    def _upload(
        self, connection: BulkConnection, cut: Cut, kept: KeptCut
    ) -> ev.Uploaded | ev.UploadFailed:
        try:
            with kept.lock:
                if not kept.wanted:
                    raise GivenUpError("nobody wants this cut any more")
                payload = self._encoded(kept)
                again, kept.tried = kept.tried, True
            parcel = contribution(cut, self.terms.uplink, payload)
            self._up.send(connection, parcel, lambda: kept.wanted, again)
        except ValueError as error:
            return ev.UploadFailed(cut.id, f"not sent: {error}", True)
        except FerryError as error:
            why = error.sentence if isinstance(error, RefusedError) else str(error)
            return ev.UploadFailed(cut.id, why, is_final(error))
        return ev.Uploaded(cut.id)

    @torch.no_grad()
    def _encoded(self, kept: KeptCut) -> Tensor:
        if kept.payload is None:
            assert kept.staging is not None, "a cut that is not encoded has its copy"
            displacement = kept.staging.values()
            displacement.sub_(self.island.rounded(kept.fragment, kept.base.values))
            try:
                kept.payload = encode(self.terms.uplink, displacement)
            finally:
                staging, kept.staging = kept.staging, None
                self.island.pool.give_back(staging)
        return kept.payload

    def forget(self, kept: KeptCut) -> None:
        """Nothing of the cut is needed; who is sending it stops at the next part."""
        kept.wanted = False
        if kept.lock.acquire(blocking=False):
            try:
                if kept.staging is not None:
                    self.island.pool.give_back(kept.staging)
                    kept.staging = None
            finally:
                kept.lock.release()

    # ------------------------------------------------------------ versions

    def fetch(self, fragment: int, version: int, digest: str, base: Published | None) -> None:
        """Bring the newest version, which is `version` or a later one."""

        def task(connection: BulkConnection) -> None:
            self._tell(self._fetch(connection, (fragment, version, digest), base))

        self.workers.submit(task)

    def _fetch(
        self, connection: BulkConnection, wanted: tuple[int, int, str], base: Published | None
    ) -> FetchedVersion | ev.FetchFailed:
        fragment, version, digest = wanted
        try:
            found = self._down.fetch(connection, fragment, self.numel(fragment), base)
        except (BadCopyError, ValueError) as error:
            return ev.FetchFailed(fragment, version, str(error), True)
        except FerryError as error:
            full = isinstance(error, RefusedError) and not error.may_pass
            return ev.FetchFailed(fragment, version, str(error), full)
        if found.version < version:
            why = f"version {found.version} came, {version} is announced"
            return ev.FetchFailed(fragment, version, why, False)
        if found.version == version and digest and found.digest != digest:
            return ev.FetchFailed(fragment, version, "another digest was announced", True)
        return FetchedVersion(fragment, found)

    # ------------------------------------------------------------ inner state

    def upload_inner(self, order: fx.CopyInner, copy: InnerCopy) -> None:
        """Send a copy of inner state, over one connection: contributions go before."""

        def task(connection: BulkConnection) -> None:
            self._tell(self._upload_inner(connection, order, copy))

        self.workers.submit(task)

    def _upload_inner(
        self, connection: BulkConnection, order: fx.CopyInner, copy: InnerCopy
    ) -> ev.InnerSent | ev.InnerNotSent:
        parcel = inner(order.transfer, order.index, copy.body())
        code, why = "given_up", "this island leaves"
        while not self._stopped.is_set():
            try:
                self._aside.send(connection, parcel, lambda: not self._stopped.is_set(), False)
                return ev.InnerSent(order.transfer, order.index)
            except RefusedError as refused:
                code, why = refused.code, refused.sentence
                if not refused.may_pass:
                    break
                self._stopped.wait(refused.retry_after_s or INITIAL_PAUSE_S)
            except FerryError as error:
                code, why = "broken", str(error)
                break
        return ev.InnerNotSent(order.transfer, order.index, code, why)

    def fetch_inner(self, order: fx.FetchInner, state: InnerState) -> None:
        """Bring a peer's inner state of a fragment, and see whether it fits."""

        def task(connection: BulkConnection) -> None:
            self._tell(self._fetch_inner(connection, order, state))

        self.workers.submit(task)

    def _fetch_inner(
        self, connection: BulkConnection, order: fx.FetchInner, state: InnerState
    ) -> FetchedInner | ev.InnerFetchFailed:
        try:
            body = fetch_inner(self._door, self._carrier, connection, order, state.layout)
            state.fits(order.index, body)
        except (InnerStateError, BadCopyError) as error:
            return ev.InnerFetchFailed(order.transfer, order.index, str(error), True)
        except FerryError as error:
            return ev.InnerFetchFailed(order.transfer, order.index, str(error), False)
        return FetchedInner(order, body)

    # ------------------------------------------------------------ version 0

    def upload_initial(self) -> None:
        """Send every fragment as it is."""
        self.workers.submit(self._upload_initial)

    def _upload_initial(self, connection: BulkConnection) -> None:
        for fragment in range(self.terms.protocol.P):
            values = self.island.snapshot(fragment)
            parcel = initial(fragment, encode("fp32", values))
            if not self._send_initial(connection, fragment, parcel):
                return
        self._tell(ev.InitialUploaded())

    def _send_initial(self, connection: BulkConnection, fragment: int, parcel: Parcel) -> bool:
        """Until it is there, or somebody else was named; the coordinator's deadline ends both."""
        while not self._stopped.is_set():
            try:
                self._up.send_initial(connection, parcel, lambda: not self._stopped.is_set())
            except FerryError as error:
                self._tell(InitialFailed(fragment, str(error), is_final(error)))
                if is_final(error):
                    return False
            else:
                return True
            self._stopped.wait(INITIAL_PAUSE_S)
        return False
