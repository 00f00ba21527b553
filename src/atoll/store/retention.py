"""What a run no longer needs. Plans are pure; the store carries them out after the commit.

Must never name a file that recovery from the newest `keep_last` snapshots needs, nor a file of a
later epoch than the owner's: that is another owner's, and newer. A pinned snapshot keeps its own
files and no log: it is kept to be read, not to be replayed from.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from atoll.store.manifest import Manifest, SnapshotRef
from atoll.store.segments import Segment, SegmentSpan


def kept_snapshots(snapshots: tuple[SnapshotRef, ...], keep_last: int) -> tuple[SnapshotRef, ...]:
    """The newest `keep_last` and every pinned one, oldest first."""
    assert keep_last >= 1
    newest = snapshots[-keep_last:]
    return tuple(ref for ref in snapshots if ref.pinned or ref in newest)


def first_lsn_needed(snapshots: tuple[SnapshotRef, ...], keep_last: int) -> int:
    """The first record that replaying from the oldest of the newest snapshots needs."""
    newest = snapshots[-keep_last:]
    return newest[0].upto_lsn + 1 if len(newest) == keep_last else 1


def kept_spans(closed: tuple[SegmentSpan, ...], first_lsn: int) -> tuple[SegmentSpan, ...]:
    """Log files of earlier epochs that hold a record from `first_lsn` on."""
    return tuple(span for span in closed if span.last_lsn >= first_lsn)


def removable_segments(
    segments: list[Segment], manifest: Manifest, first_lsn: int
) -> list[Segment]:
    """Log files that `manifest` does not need, among `segments` (oldest first)."""
    named = {span.file for span in manifest.closed}
    own = [segment for segment in segments if segment.epoch == manifest.open_epoch]
    outdated = [
        segment
        for segment, following in pairwise(own)
        if following.first_lsn <= max(first_lsn, segment.first_lsn)
    ]
    foreign = [
        segment
        for segment in segments
        if segment.epoch < manifest.open_epoch and segment.file not in named
    ]
    return foreign + outdated


def kept_names(manifest: Manifest) -> frozenset[str]:
    """The snapshots whose files stay."""
    return frozenset(ref.name for ref in manifest.snapshots)


def log_files_newer_than(segments: list[Segment], epoch: int, directory: Path) -> list[Path]:
    """Log files that an owner after `epoch` has written."""
    return [directory / segment.file for segment in segments if segment.epoch > epoch]
