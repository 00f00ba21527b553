"""The durable state of one run, owned by one process at a time.

`Store.create` starts a run on purpose, `Store.open` takes it over: first a manifest with the next
number and a higher epoch (whoever loses the create is fenced), only then is the old log read and
its end written down for good. So a record that its owner showed to anybody was durable before
the takeover read it, and one that comes later is never read. Must never start a run that is not
there, decide anything of the protocol, or remove what recovery needs. Keeps invariants 2 and 4.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import torch

from atoll.store.courtesy import leave_note, note_on_owner, remove_note, this_process
from atoll.store.disk import Buffer, Disk, LocalDisk, disk_errors
from atoll.store.errors import (
    DiskFailed,
    DiskFull,
    Fenced,
    RunExists,
    RunNotFound,
    StoreError,
)
from atoll.store.heartbeat import Heartbeat
from atoll.store.log import LogWriter
from atoll.store.manifest import Manifest, ManifestBook, SnapshotRef
from atoll.store.recovery import Recovered, RunDirs, recover_run
from atoll.store.retention import (
    Retention,
    first_lsn_needed,
    kept_names,
    kept_spans,
    removable_segments,
)
from atoll.store.runs import checked_name, runs_in, take_over
from atoll.store.segments import list_segments
from atoll.store.snapshots import (
    refuse_if_too_large,
    remove_leftovers,
    snapshot_name,
    write_snapshot,
)

_MANIFESTS_KEPT = 8


@dataclass(frozen=True)
class StoreConfig:
    """Settings of a store.

    `segment_bytes`: a log file is closed at this size. `retention`: which snapshots stay.
    `reserve_bytes`: room a snapshot must leave free for the log.
    """

    segment_bytes: int = 256 << 20
    retention: Retention = field(default_factory=Retention)
    reserve_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.segment_bytes < 1 or self.reserve_bytes < 0:
            raise ValueError(f"a store wants positive sizes, not {self}")


class Store:
    """One run, open for writing. Made by `create` and `open` only."""

    def __init__(self, book: ManifestBook, dirs: RunDirs, config: StoreConfig, disk: Disk) -> None:
        self._book = book
        self._dirs = dirs
        self._config = config
        self._disk = disk
        self._owner = this_process()
        self.heartbeat = Heartbeat(dirs.root, book.current.epoch, self._owner)
        self._log = LogWriter(
            dirs.log,
            book.current.open_epoch,
            book.current.open_first_lsn,
            disk,
            config.segment_bytes,
        )
        self._snapshot_lock = threading.Lock()
        self._num_snapshots = 0
        self.notes: tuple[str, ...] = ()

    @classmethod
    def create(
        cls,
        root: Path,
        run: str,
        config: StoreConfig | None = None,
        disk: Disk | None = None,
    ) -> Store:
        """Start a new run; `RunExists` if there is one of that name."""
        used_disk = disk or LocalDisk()
        dirs = RunDirs(root / checked_name(run))
        book = ManifestBook(dirs.root, used_disk)
        if book.numbers():
            raise RunExists(root, run)
        with disk_errors(used_disk, dirs.root):
            for directory in (root, dirs.root, dirs.log, dirs.snapshots):
                used_disk.mkdir(directory)
            for directory in (root, dirs.root):
                used_disk.fsync_dir(directory)
        first = Manifest(run, 1, 1, this_process(), (), (), open_epoch=1, open_first_lsn=1)
        try:
            book.commit(first)
        except Fenced:
            raise RunExists(root, run) from None
        leave_note(dirs.root, first.owner)
        return cls(book, dirs, config or StoreConfig(), used_disk)

    @classmethod
    def open(
        cls,
        root: Path,
        run: str,
        config: StoreConfig | None = None,
        disk: Disk | None = None,
        after_epoch: int = 0,
    ) -> Store:
        """Take a run over; its last owner, should it still run, is fenced. Read `notes` out.

        With `after_epoch` only from the owner of that epoch: `Fenced` if there is a later one.
        """
        used_disk = disk or LocalDisk()
        dirs = RunDirs(root / checked_name(run))
        book = ManifestBook(dirs.root, used_disk)
        latest = book.latest()
        if latest.manifest is None:
            raise RunNotFound(root, run, runs_in(root))
        if after_epoch and latest.manifest.epoch != after_epoch:
            mine = f"whoever waited for the end of epoch {after_epoch}"
            raise Fenced(dirs.root, mine, latest.manifest.who())
        notes = list(latest.notes)
        notes += note_on_owner(dirs.root, this_process())
        notes += take_over(book, latest.manifest, latest.next_number, dirs, used_disk)
        leave_note(dirs.root, book.current.owner)
        store = cls(book, dirs, config or StoreConfig(), used_disk)
        notes += book.clean_temporaries()
        store.notes = tuple(notes) + store._pins_that_are_not()
        store._remove_unneeded()
        return store

    @property
    def epoch(self) -> int:
        """The epoch this owner's messages carry."""
        return self._book.current.epoch

    @property
    def last_lsn(self) -> int:
        """The last durable record."""
        return self._log.last_lsn

    @property
    def snapshots(self) -> tuple[SnapshotRef, ...]:
        """Snapshots that are kept, oldest first."""
        return self._book.current.snapshots

    def recover(self) -> Recovered:
        """The run as it stands: newest good snapshot, and the records after it."""
        return recover_run(self._book.current, self._dirs)

    def commit_record(self, kind: int, metadata: object, payloads: Sequence[Buffer] = ()) -> int:
        """Append a record; when this returns its LSN it may be shown to the world.

        Raises `DiskFull` or `DiskFailed` (not committed, may be tried again) or `Fenced` (exit).
        """
        return self._log.append(kind, metadata, payloads, self._book.check_fence)

    def check_fence(self) -> None:
        """Raise `Fenced` if another process owns the run now."""
        self._book.check_fence()

    def glance_at_fence(self) -> None:
        """As `check_fence`; nothing while a manifest is being committed. Does not wait for one."""
        self._book.glance_at_fence()

    def commit_snapshot(
        self,
        tensors: Mapping[str, torch.Tensor],
        state: object,
        upto_lsn: int,
        tokens: int = 0,
        pinned: bool = False,
    ) -> SnapshotRef:
        """Write a snapshot that holds the effect of every record up to `upto_lsn`, and commit it.

        `tokens` is what the run has trained, by which snapshots are kept. May run in a thread of
        its own while records are appended; those replay on top. The tensors must not change until
        it returns. Afterwards what is no longer needed is removed.
        """
        with self._snapshot_lock:
            self._check_upto(upto_lsn)
            self._book.check_fence()
            self._remove_unneeded()  # what an attempt that failed left behind
            refuse_if_too_large(
                self._dirs.snapshots, tensors, self._config.reserve_bytes, self._disk
            )
            self._num_snapshots += 1
            name = snapshot_name(self.epoch, upto_lsn, self._num_snapshots)
            try:
                digest = write_snapshot(
                    self._dirs.snapshots, name, tensors, state, upto_lsn, self._disk
                )
            except StoreError:
                self._book.check_fence()  # a new owner removes half-written files: say that first
                raise
            ref = SnapshotRef(name, digest, upto_lsn, pinned, tokens)
            self._commit_with(ref)
            self._remove_unneeded()
            return ref

    def close(self) -> None:
        """Give files and the courtesy note back. Everything committed is durable already."""
        self._log.close()
        remove_note(self._dirs.root, self._owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_upto(self, upto_lsn: int) -> None:
        newest = max((ref.upto_lsn for ref in self.snapshots), default=0)
        if not newest <= upto_lsn <= self.last_lsn:
            raise ValueError(
                f"a snapshot up to record {upto_lsn}: must lie between the newest snapshot "
                f"({newest}) and the last durable record ({self.last_lsn})"
            )

    def _commit_with(self, ref: SnapshotRef) -> None:
        current = self._book.current
        retention = self._config.retention
        snapshots = retention.kept((*current.snapshots, ref))
        closed = kept_spans(current.closed, first_lsn_needed(snapshots, retention.keep_last))
        self._book.commit(
            msgspec.structs.replace(
                current,
                number=current.number + 1,
                snapshots=snapshots,
                closed=closed,
            )
        )

    def _pins_that_are_not(self) -> tuple[str, ...]:
        there = [ref.upto_lsn for ref in self.snapshots]
        missing = sorted(self._config.retention.pinned.difference(there))
        known = ", ".join(map(str, there)) or "none"
        return tuple(f"there is no snapshot {each} to pin; kept are {known}" for each in missing)

    def _remove_unneeded(self) -> None:
        """Clean up; a disk that refuses it is noted, not raised: what was committed stands."""
        try:
            notes = self._remove_files()
        except (DiskFull, DiskFailed) as failed:
            notes = [f"could not clean up, will try again: {failed}"]
        self.notes = (*self.notes, *notes)

    def _remove_files(self) -> list[str]:
        """Remove what the committed manifest does not need, of this and earlier epochs."""
        manifest = self._book.current
        notes = remove_leftovers(
            self._dirs.snapshots, kept_names(manifest), manifest.epoch, self._disk
        )
        needed = first_lsn_needed(manifest.snapshots, self._config.retention.keep_last)
        segments = list_segments(self._dirs.log)
        for segment in removable_segments(segments, manifest, needed):
            path = self._dirs.log / segment.file
            with disk_errors(self._disk, path):
                self._disk.unlink(path)
        self._book.remove_before(manifest.number - _MANIFESTS_KEPT)
        return notes
