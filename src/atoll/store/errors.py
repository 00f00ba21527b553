"""What can go wrong with a store, as types a caller can tell apart.

Every message names what is wrong, where, and what to do. Must never hide an operating system
error: it stays as the cause.
"""

from __future__ import annotations

from pathlib import Path


class StoreError(Exception):
    """Anything the store refuses or could not do."""


class DiskFull(StoreError):
    """There is no room; nothing was lost, and the same call works once there is room."""

    def __init__(self, path: Path, needed_bytes: int, free_bytes: int) -> None:
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            f"disk full at {path}: {needed_bytes} bytes needed, {free_bytes} free; "
            "free some space or move the store to a larger disk, then it goes on by itself"
        )


class DiskFailed(StoreError):
    """The disk refused an operation for another reason than being full."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        super().__init__(
            f"disk operation failed at {path}: {error}; the last good version is kept, "
            "check the disk and its permissions"
        )


class Damaged(StoreError):
    """Bytes that were once good no longer are: names the file and the place in it."""

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"{path} is damaged at byte {offset}: {reason}; "
            "nothing was changed: restore this file from a copy, or recover an older snapshot"
        )


class LogDamaged(Damaged):
    """A record in the middle of the log is bad or missing."""


class SnapshotDamaged(Damaged):
    """A snapshot does not have the bytes its digest names."""


class ManifestDamaged(Damaged):
    """A manifest does not have the bytes its digest names."""


class Fenced(StoreError):
    """Another process owns the run now. This one must stop writing and exit."""

    def __init__(self, path: Path, mine: str, winner: str) -> None:
        self.path = path
        self.winner = winner
        super().__init__(
            f"fenced: the run at {path} now belongs to {winner}, not to {mine}; "
            "this process must exit, nothing it writes from here on is read"
        )


class RunNotFound(StoreError):
    """The store does not hold the run that was asked for."""

    def __init__(self, root: Path, run: str, known: list[str]) -> None:
        held = "it holds " + ", ".join(known) if known else "it holds no run"
        super().__init__(
            f"no state of run {run!r} in {root} ({held}); check the directory and the name, "
            "or start a new run on purpose with `atoll init`"
        )


class RunExists(StoreError):
    """A new run was asked for under a name that has state already."""

    def __init__(self, root: Path, run: str) -> None:
        super().__init__(
            f"run {run!r} already has state in {root}; continue it, or choose another name "
            "(nothing is ever overwritten)"
        )
