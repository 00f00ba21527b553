"""A read-only follower: the published fragments of a run, for evaluation and export.

Comes in as an observer, so it cannot change anything. Polls; blocks in the thread that asks, each
poll until its deadline. Holds only versions whose digest was right.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torch import Tensor

from atoll.access.invite import Invite
from atoll.access.tokens import Role
from atoll.ferry.bulk import BulkConnection
from atoll.ferry.control import Crashed
from atoll.ferry.door import Door, door_of
from atoll.ferry.download import BadCopyError, Downloader
from atoll.ferry.errors import FerryError, LinkBrokenError, RefusedError
from atoll.ferry.hall import Hall
from atoll.ferry.pace import Pace
from atoll.ferry.parts import PartCarrier
from atoll.ferry.terms import RunTerms
from atoll.ferry.workers import Workers
from atoll.fragments import Layout
from atoll.fragments.access import scatter_
from atoll.merge.chain import Published

NUM_CONNECTIONS = 3
PAUSE_S = 0.2
CLOSE_S = 2.0


class Follower:
    """The newest published versions that have been fetched. Made by `follow_run`."""

    def __init__(self, door: Door, terms: RunTerms, layout: Layout):
        self.terms = terms
        self.layout = layout
        self._held: dict[int, Published] = {}
        self._crashes: list[Crashed] = []
        self._workers = Workers(
            NUM_CONNECTIONS,
            lambda: BulkConnection(door, Pace()),
            lambda error: self._crashes.append(Crashed(error)),
        )
        self._own = BulkConnection(door, Pace())
        self._down = Downloader(door, PartCarrier(self._workers), terms.downlink)

    @property
    def versions(self) -> tuple[int, ...]:
        """The version held of each fragment, -1 for none."""
        return tuple(self._held[f].version if f in self._held else -1 for f in self._fragments)

    @property
    def _fragments(self) -> range:
        return range(self.layout.num_fragments)

    def poll(self, timeout_s: float = 60.0) -> tuple[int, ...]:
        """Fetch what is newer, of every fragment; the versions held then.

        Raises LinkBrokenError or RefusedError where that was not possible in time.
        """
        until_s = time.monotonic() + timeout_s
        for fragment in self._fragments:
            self._held[fragment] = self._newest(fragment, until_s)
        return self.versions

    def _newest(self, fragment: int, until_s: float) -> Published:
        numel, base = self.layout.fragments[fragment].numel, self._held.get(fragment)
        while True:
            try:
                return self._down.fetch(self._own, fragment, numel, base)
            except BadCopyError:
                if base is None:
                    raise
                base = None
            except (LinkBrokenError, RefusedError) as error:
                may_pass = not isinstance(error, RefusedError) or error.may_pass
                if not may_pass or time.monotonic() > until_s:
                    raise
                time.sleep(PAUSE_S)
            if self._crashes:
                raise FerryError("a transfer failed unexpectedly") from self._crashes[0].cause

    def published(self, fragment: int) -> Published:
        """A fragment as held; its values are not to be written to."""
        return self._held[fragment]

    def load_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Write what is held into tensors by canonical name, in place."""
        for fragment, published in self._held.items():
            scatter_(self.layout, fragment, published.values, tensors)

    def close(self) -> None:
        """Let the connections go."""
        self._workers.stop(CLOSE_S)
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def follow_run(invite: Invite, timeout_s: float = 60.0, proxy: str = "") -> Follower:
    """A follower of the run that an invite is to. Raises FerryError with address and reason."""
    door = door_of(invite, Role.OBSERVER, proxy)
    hall = Hall(door, time.monotonic() + timeout_s)
    try:
        terms, layout = hall.terms(), hall.layout()
    finally:
        hall.close()
    if layout is None:
        raise FerryError(f"run {door.run!r} at {door} has no layout yet: no learner has joined")
    return Follower(door, terms, layout)
