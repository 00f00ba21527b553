"""What the syncer writes down: kinds of log records, what stands in them, what a snapshot holds.

The one place that knows how cores, layout and tensors map to the store. Every function here blocks
until the bytes are durable, so none may be called on an event loop. Keeps invariant 2: a merge is
one record, and whoever has its LSN may show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from atoll.core import effects as fx
from atoll.core.ids import Mark
from atoll.fragments import Layout
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.merge import MergeResult
from atoll.store.disk import Disk
from atoll.store.store import Store, StoreConfig

CHARTER = 1
LAYOUT = 2
INITIAL = 3
MERGE = 4
COORDINATOR_RECORD = 5


class CharterRecord(msgspec.Struct, frozen=True):
    """The first record of a run: what all replays depend on."""

    numbers: dict[str, Any]


class LayoutRecord(msgspec.Struct, frozen=True):
    """The layout, as the first learner brought it."""

    layout: dict[str, Any]


class InitialRecord(msgspec.Struct, frozen=True):
    """Version 0 of a fragment; its fp32 bytes are the payload."""

    fragment: int
    digest: str


class MergeRecord(msgspec.Struct, frozen=True):
    """One merge: all decisions, and the averaged displacement in bf16 as the payload."""

    fragment: int
    version: int
    round: int
    digest: str
    backend: str
    marks: tuple[Mark, ...]
    through: tuple[tuple[str, int, int], ...]
    merged_tokens: int
    thin: bool
    parts: tuple[fx.Part, ...]
    reason: str


class PersistRecord(msgspec.Struct, frozen=True):
    """One record of the coordinator."""

    number: int
    kind: str
    fields: tuple[tuple[str, str], ...]


class SnapshotState(msgspec.Struct, frozen=True):
    """What stands beside the tensors. `cores` holds each core's state by party."""

    numbers: dict[str, Any]
    layout: dict[str, Any]
    versions: dict[int, tuple[int, str]]
    cores: dict[str, tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class SnapshotJob:
    """A snapshot to be written: all of it is immutable, or belongs to it alone."""

    state: SnapshotState
    tensors: Mapping[str, Tensor]
    upto_lsn: int
    tokens: int


class Keeper:
    """The run's store, in the syncer's words."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def begin(
        cls,
        root: Path,
        run: str,
        numbers: dict[str, Any],
        config: StoreConfig,
        disk: Disk | None = None,
    ) -> Keeper:
        """Begin a new run on purpose."""
        return cls(_chartered(Store.create(root, run, config, disk), numbers))

    @classmethod
    def take_over(
        cls,
        root: Path,
        run: str,
        numbers: dict[str, Any],
        config: StoreConfig,
        after_epoch: int,
        disk: Disk | None = None,
    ) -> Keeper:
        """Go on with the run that is there; `after_epoch` 0: whoever owned it.

        `numbers` are for a run whose disk was full before its first record.
        """
        return cls(_chartered(Store.open(root, run, config, disk, after_epoch), numbers))

    def layout(self, layout: Layout) -> int:
        """Keep the run's layout."""
        return self.store.commit_record(LAYOUT, LayoutRecord(layout.to_dict()))

    def initial(self, fragment: int, digest: str, theta: Tensor) -> int:
        """Keep version 0 of a fragment."""
        record = InitialRecord(fragment, digest)
        return self.store.commit_record(INITIAL, record, [byte_view(theta)])

    def merge(self, order: fx.Merge, result: MergeResult) -> int:
        """Keep a merge; when this returns it may be published."""
        record = MergeRecord(
            fragment=order.fragment,
            version=order.version,
            round=order.round,
            digest=result.increment.digest,
            backend=result.backend,
            marks=order.marks,
            through=order.through,
            merged_tokens=order.merged_tokens,
            thin=order.thin,
            parts=order.parts,
            reason=order.reason.code,
        )
        return self.store.commit_record(MERGE, record, [byte_view(result.delta_bytes)])

    def persist(self, effect: fx.Persist) -> int:
        """Keep a record of the coordinator."""
        record = PersistRecord(effect.number, effect.kind, effect.fields)
        return self.store.commit_record(COORDINATOR_RECORD, record)

    def snapshot(self, job: SnapshotJob) -> None:
        """Write a snapshot; records after it replay on top."""
        self.store.commit_snapshot(job.tensors, job.state, job.upto_lsn, job.tokens)


def _chartered(store: Store, numbers: dict[str, Any]) -> Store:
    """The store of a run that has its first record; closed where that cannot be written."""
    try:
        if store.last_lsn == 0:
            store.commit_record(CHARTER, CharterRecord(numbers))
    except BaseException:
        store.close()
        raise
    return store


class AppliedPrefix:
    """Up to which record all are taken into account; commits may finish out of order."""

    def __init__(self, upto_lsn: int) -> None:
        self.upto_lsn = upto_lsn
        self._ahead: dict[int, None] = {}

    def applied(self, lsn: int) -> None:
        """A record's effect is in memory."""
        self._ahead[lsn] = None
        while self.upto_lsn + 1 in self._ahead:
            self.upto_lsn += 1
            del self._ahead[self.upto_lsn]
