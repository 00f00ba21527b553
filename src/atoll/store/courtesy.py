"""A lock file with a process id, so that a second start can say what it is about to do.

Only a courtesy: it refuses nobody and is believed by nobody. The manifests' numbers decide who
owns a run.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from atoll.store.manifest import Owner

LOCK_FILE = "owner.lock"


def this_process() -> Owner:
    """The owner that this process would be."""
    return Owner(socket.gethostname(), os.getpid())


def note_on_owner(directory: Path, me: Owner) -> list[str]:
    """A sentence if the run was not left in order by its last owner."""
    path = directory / LOCK_FILE
    try:
        owner = msgspec.json.decode(path.read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return []
    if owner == me:
        return []
    who = f"process {owner.pid} on {owner.host}"
    if owner.host != me.host:
        return [f"taking over from {who}; if it still runs, it is fenced"]
    if _is_alive(owner.pid):
        return [f"taking over from {who}, which seems to be running: it is fenced and will exit"]
    return [f"taking over from {who}, which ended without closing the store"]


def leave_note(directory: Path, me: Owner) -> None:
    """Say who is here; failing to is no reason to stop."""
    with suppress(OSError):
        (directory / LOCK_FILE).write_bytes(msgspec.json.encode(me))


def remove_note(directory: Path, me: Owner) -> None:
    """Take one's own note away, never another's."""
    path = directory / LOCK_FILE
    with suppress(OSError, msgspec.DecodeError):
        if msgspec.json.decode(path.read_bytes(), type=Owner) == me:
            path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
