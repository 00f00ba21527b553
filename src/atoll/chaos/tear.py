"""Files of a dead syncer that end in the middle, as a loss of power leaves them.

Only what nobody was told is durable may be torn, or what is there twice: half a record after the
last one, or the newest snapshot where an older one and its log are still whole. Must never be
called while the syncer runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from atoll.store.records import HEADER_BYTES
from atoll.store.recovery import RunDirs
from atoll.store.segments import list_segments

TORN = ".torn-by-chaos"
"""Ends the name of an empty file beside a snapshot that was torn: never two in a row."""


def tear_log(run_dir: Path) -> str:
    """Half a record, written when the power went. Returns what was done."""
    log = RunDirs(run_dir).log
    written = [each for each in list_segments(log) if (log / each.file).stat().st_size > 0]
    if not written:
        return "the log is empty: nothing to tear"
    path = log / written[-1].file
    half = path.read_bytes()[: HEADER_BYTES + 8]
    with path.open("ab") as file:
        file.write(half)
        file.flush()
        os.fsync(file.fileno())
    return f"{len(half)} bytes of a record after the end of {path.name}"


def tear_snapshot(run_dir: Path) -> str:
    """The newest snapshot loses its second half. Returns what was done."""
    folder = RunDirs(run_dir).snapshots
    snapshots = sorted(path for path in folder.glob("e*.safetensors"))
    torn = [path for path in snapshots if path.with_suffix(TORN).exists()]
    if len(snapshots) < 2 or torn:
        return f"{len(snapshots)} snapshots, {len(torn)} torn already: this one only killed"
    newest = snapshots[-1]
    os.truncate(newest, newest.stat().st_size // 2)
    newest.with_suffix(TORN).touch()
    return f"the second half of {newest.name} is gone"
