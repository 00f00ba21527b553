"""What a run no longer needs. Plans are pure; the store carries them out after the commit.

Must never name a file that recovery from the newest `keep_last` snapshots needs, nor a file of a
later epoch than the owner's: that is another owner's, and newer. A snapshot that is kept for being
pinned, or for the tokens it stands for, keeps its own files and no log: it is kept to be read, not
to be replayed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from atoll.store.manifest import Manifest, SnapshotRef
from atoll.store.segments import Segment, SegmentSpan


@dataclass(frozen=True, slots=True)
class Retention:
    """Which snapshots stay: the newest, the first after every so many tokens, those pinned."""

    keep_last: int = 2
    """Snapshots to be able to recover from, with the log since the oldest of them."""
    every_tokens: int = 0
    """The first snapshot after every so many trained tokens stays for good; 0 for none."""
    pinned: frozenset[int] = frozenset()
    """Snapshots, by the last record that they hold, that stay as long as they are named."""

    def __post_init__(self) -> None:
        if self.keep_last < 1 or self.every_tokens < 0:
            raise ValueError(f"retention wants keep_last >= 1 and no negative tokens, not {self}")

    def reason(self, ref: SnapshotRef, snapshots: tuple[SnapshotRef, ...]) -> str:
        """Why a snapshot among these, oldest first, stays; empty where it goes."""
        if ref.pinned or ref.upto_lsn in self.pinned:
            return "pinned"
        if ref in snapshots[-self.keep_last :]:
            return "among the newest"
        if self.every_tokens and ref == self._first_of(self._span(ref), snapshots):
            return f"the first after {self._span(ref) * self.every_tokens} tokens"
        return ""

    def kept(self, snapshots: tuple[SnapshotRef, ...]) -> tuple[SnapshotRef, ...]:
        """Those that stay, oldest first."""
        return tuple(ref for ref in snapshots if self.reason(ref, snapshots))

    def is_due(self, tokens_before: int, tokens: int) -> bool:
        """A snapshot that is kept for its tokens is to be written now."""
        return self.every_tokens > 0 and tokens // self.every_tokens > (
            tokens_before // self.every_tokens
        )

    def _span(self, ref: SnapshotRef) -> int:
        return ref.tokens // self.every_tokens

    def _first_of(self, span: int, snapshots: tuple[SnapshotRef, ...]) -> SnapshotRef | None:
        """Nobody stands for the tokens before the first `every_tokens`."""
        return next((ref for ref in snapshots if span and self._span(ref) == span), None)


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
