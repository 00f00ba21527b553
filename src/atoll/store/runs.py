"""Which runs a directory holds, looking at one, and taking one over.

Looking changes nothing and owns nothing. A takeover commits a manifest of a higher epoch before it
reads where the old log ends: what the old owner showed to anybody was durable, and checked against
the fence, before that. Must never start a run that is not there. Keeps invariants 2 and 4.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec

from atoll.store.courtesy import this_process
from atoll.store.disk import Disk, LocalDisk, disk_errors
from atoll.store.errors import Damaged, ManifestDamaged, RunNotFound
from atoll.store.manifest import Manifest, ManifestBook, SnapshotRef, manifest_file
from atoll.store.recovery import Recovered, RunDirs, last_lsn_of, log_spans, recover_run
from atoll.store.retention import log_files_newer_than
from atoll.store.segments import list_segments
from atoll.store.snapshots import Snapshot, load_snapshot

_RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def runs_in(root: Path) -> list[str]:
    """Names of the runs that a directory holds."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if any(path.glob("manifest-*.json")))


def checked_name(run: str) -> str:
    """The name, if it is fit to be one of a directory."""
    if not _RUN_NAME.match(run):
        raise ValueError(
            f"run name {run!r}: use 1 to 64 letters, digits, '.', '_' or '-', no dot or dash first"
        )
    return run


def read_run(root: Path, run: str) -> Recovered:
    """A run as it stands, without owning it: for export and inspection."""
    dirs = RunDirs(root / checked_name(run))
    book = ManifestBook(dirs.root, LocalDisk())
    while True:
        latest = book.latest()
        if latest.manifest is None:
            raise RunNotFound(root, run, runs_in(root))
        try:
            recovered = recover_run(latest.manifest, dirs)
        except Damaged:
            if book.latest().next_number == latest.next_number:
                raise
            continue  # the owner committed, and removed files, while they were read
        return replace(recovered, notes=(*latest.notes, *recovered.notes))


def snapshots_in(root: Path, run: str) -> tuple[SnapshotRef, ...]:
    """The snapshots of a run, oldest first, without owning it."""
    latest = ManifestBook(root / checked_name(run), LocalDisk()).latest()
    if latest.manifest is None:
        raise RunNotFound(root, run, runs_in(root))
    return latest.manifest.snapshots


def read_snapshot(root: Path, run: str, ref: SnapshotRef) -> Snapshot:
    """One of `snapshots_in`; SnapshotDamaged where it was removed meanwhile."""
    return load_snapshot(RunDirs(root / checked_name(run)).snapshots, ref)


def take_over(
    book: ManifestBook, latest: Manifest, number: int, dirs: RunDirs, disk: Disk
) -> list[str]:
    """Claim the run with a higher epoch, then read where the old log ends and write that down."""
    # Damaged or abandoned numbers above `latest` may have had an epoch each: stay above them.
    epoch = latest.epoch + number - latest.number
    newer = log_files_newer_than(list_segments(dirs.log), latest.epoch, dirs.log)
    if newer:
        raise ManifestDamaged(
            dirs.root / manifest_file(number - 1),
            0,
            f"epoch {latest.epoch} is the last one readable, but {newer[0]} is of a later one",
        )
    me = this_process()
    book.commit(msgspec.structs.replace(latest, number=number, epoch=epoch, owner=me))
    spans, notes = log_spans(latest, dirs)
    first_lsn = last_lsn_of(latest, spans, dirs.log) + 1
    if len(spans) > len(latest.closed):
        # The last record may have been written and never fsynced: now it counts, so it must last.
        newest = dirs.log / spans[-1].file
        with disk_errors(disk, newest):
            disk.fsync_file(newest)
    book.commit(
        msgspec.structs.replace(
            book.current,
            number=number + 1,
            closed=spans,
            open_epoch=epoch,
            open_first_lsn=first_lsn,
        )
    )
    return notes
