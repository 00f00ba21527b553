"""A sign of life of a run's owner, for a standby to look at.

It says only *when* to try a takeover; the manifests' numbers decide who owns a run. One small file
for each epoch, written in place and never grown, so that a full disk does not silence a healthy
owner. Who looks at it compares bytes with those of an earlier look: two machines' clocks are never
compared.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.store.manifest import Owner

SERVING = "serving"
STOPPED = "stopped"
ENDED = "ended"
"""The owner has stopped, and the run had ended."""

_BYTES = 512
_STEM = "heartbeat-"


class Beat(msgspec.Struct, frozen=True):
    """What the file says; `count` differs between any two beats of an owner."""

    epoch: int
    owner: Owner
    count: int
    state: str = SERVING


def heartbeat_file(directory: Path, epoch: int) -> Path:
    """Where the owner of an epoch shows that it is alive."""
    return directory / f"{_STEM}{epoch:06d}"


def read_beat(directory: Path, epoch: int) -> Beat | None:
    """The newest beat of an epoch; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(heartbeat_file(directory, epoch).read_bytes(), type=Beat)
    except (OSError, msgspec.DecodeError):
        return None


@dataclass
class Heartbeat:
    """The owner's side. Failing to beat is no reason to stop: at worst somebody takes over."""

    directory: Path
    epoch: int
    owner: Owner
    count: int = 0

    def beat(self, state: str = SERVING) -> None:
        """One more sign of life."""
        self.count += 1
        said = msgspec.json.encode(Beat(self.epoch, self.owner, self.count, state))
        with suppress(OSError):
            path = heartbeat_file(self.directory, self.epoch)
            fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.pwrite(fd, said.ljust(_BYTES), 0)
            finally:
                os.close(fd)

    def remove_earlier(self) -> None:
        """Let the files of earlier epochs go."""
        with suppress(OSError):
            mine = heartbeat_file(self.directory, self.epoch).name
            for path in self.directory.glob(f"{_STEM}*"):
                if path.name < mine:
                    path.unlink(missing_ok=True)
