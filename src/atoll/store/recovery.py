"""From what is on disk back to a run: the newest good snapshot, then the records after it.

Reads only, so it also serves export and inspection while another process owns the run. Must
never skip a record or a damaged file in silence: what was gone around is in `notes`, what cannot
be gone around is an error. Keeps: every acknowledged record is replayed, once, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from atoll.store.errors import LogDamaged, SnapshotDamaged
from atoll.store.manifest import Manifest, SnapshotRef
from atoll.store.records import Record
from atoll.store.segments import SegmentSpan, read_span, spans_of_epoch
from atoll.store.snapshots import Snapshot, load_snapshot

NO_STATE = b"null"


@dataclass(frozen=True)
class RunDirs:
    """Where the parts of one run lie."""

    root: Path

    @property
    def log(self) -> Path:
        """Segment files."""
        return self.root / "log"

    @property
    def snapshots(self) -> Path:
        """Snapshot files."""
        return self.root / "snapshots"


@dataclass(frozen=True)
class Recovered:
    """A run as it stood after record `last_lsn`.

    Start from `tensors` and `state` (JSON; `null` if there was no snapshot), which hold all up to
    `snapshot_lsn`, and apply `records()`. `notes` are sentences for a person: read them out.
    """

    tensors: dict[str, torch.Tensor]
    state: bytes
    snapshot_lsn: int
    last_lsn: int
    notes: tuple[str, ...]
    log_dir: Path
    spans: tuple[SegmentSpan, ...]

    def records(self) -> Iterator[Record]:
        """Records after the snapshot, in order, one in memory at a time.

        Raises `LogDamaged` at the first one that is bad or missing.
        """
        expected = self.snapshot_lsn + 1
        for span in self.spans:
            if span.last_lsn < expected:
                continue
            if span.first_lsn > expected:
                break
            path = self.log_dir / span.file
            if not path.exists():
                raise LogDamaged(path, 0, f"the file with record {expected} is missing")
            yield from read_span(path, span, expected)
            expected = span.last_lsn + 1
        if expected != self.last_lsn + 1:
            reason = f"records {expected} to {self.last_lsn} are missing"
            raise LogDamaged(self.log_dir, 0, reason)


def log_spans(manifest: Manifest, dirs: RunDirs) -> tuple[tuple[SegmentSpan, ...], list[str]]:
    """Every log file that counts, oldest first, and a note if the newest has a torn tail."""
    open_spans, torn = spans_of_epoch(dirs.log, manifest.open_epoch)
    return manifest.closed + tuple(open_spans), [torn] if torn else []


def last_lsn_of(manifest: Manifest, spans: tuple[SegmentSpan, ...], log_dir: Path) -> int:
    """The last record of the run; `LogDamaged` if the log ends before a snapshot does."""
    last = spans[-1].last_lsn if spans else manifest.open_first_lsn - 1
    reached = max((ref.upto_lsn for ref in manifest.snapshots), default=0)
    if last < max(reached, manifest.open_first_lsn - 1):
        reason = f"the log ends with record {last}, but record {reached} was durable once"
        raise LogDamaged(log_dir, 0, reason)
    return last


def recover_run(manifest: Manifest, dirs: RunDirs) -> Recovered:
    """The run that a manifest names."""
    spans, notes = log_spans(manifest, dirs)
    last_lsn = last_lsn_of(manifest, spans, dirs.log)
    first_lsn = spans[0].first_lsn if spans else last_lsn + 1
    snapshot, notes_of_snapshot = _newest_good(manifest.snapshots, first_lsn, dirs.snapshots)
    tensors = snapshot.tensors if snapshot else {}
    state = snapshot.state if snapshot else NO_STATE
    upto_lsn = snapshot.ref.upto_lsn if snapshot else 0
    all_notes = tuple(notes + notes_of_snapshot)
    return Recovered(tensors, state, upto_lsn, last_lsn, all_notes, dirs.log, spans)


def _newest_good(
    refs: tuple[SnapshotRef, ...], first_lsn: int, directory: Path
) -> tuple[Snapshot | None, list[str]]:
    """The newest snapshot that is whole and whose later records are still there."""
    notes: list[str] = []
    damage: SnapshotDamaged | None = None
    for ref in reversed(refs):
        if ref.upto_lsn + 1 < first_lsn:
            break
        try:
            return load_snapshot(directory, ref), notes
        except SnapshotDamaged as damaged:
            damage = damage or damaged
            notes.append(f"went back behind a damaged snapshot: {damaged}")
    if damage is not None:
        raise damage
    return None, notes
