"""Waiting for one's turn: a standby looks at the run's owner and says when to try a takeover.

Reads only. What is seen decides *when* to try; the exclusive create of the next manifest decides
who wins, and it is tried only over the very epoch that was seen to fall silent. So a standby that
is wrong about the owner's death costs a takeover, never a merge; and of two standbys one wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.store.disk import LocalDisk
from atoll.store.errors import StoreError
from atoll.store.heartbeat import ENDED, SERVING, Beat, read_beat
from atoll.store.manifest import Manifest, ManifestBook
from atoll.store.runs import checked_name

SILENCE_S = 5.0
"""An owner that shows no sign of life for so long is taken for gone."""
LOOK_S = 0.5

WAIT, TRY, OVER = "wait", "try", "over"


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do now, and why. `epoch` is the owner's that was looked at; 0 where none was seen."""

    do: str
    epoch: int
    why: str


@dataclass
class OwnerWatch:
    """Looks again and again at the owner of a run."""

    root: Path
    run: str
    silence_s: float = SILENCE_S
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[int, Beat | None] = (0, None)
    _since_s: float = 0.0

    def look(self) -> Turn:
        """One look; blocks for as long as the disk takes."""
        directory = self.root / checked_name(self.run)
        try:
            manifest = ManifestBook(directory, LocalDisk()).latest().manifest
        except StoreError as error:
            self._since_s = 0.0  # what nobody could see is no silence
            return Turn(WAIT, 0, f"cannot see who owns the run: {error}")
        if manifest is None:
            return Turn(WAIT, 0, f"run {self.run!r} has not begun in {self.root}")
        return self._judge(manifest, read_beat(directory, manifest.epoch))

    def _judge(self, manifest: Manifest, beat: Beat | None) -> Turn:
        now_s, who = self.clock(), manifest.who()
        if (manifest.epoch, beat) != self._seen or not self._since_s:
            self._seen, self._since_s = (manifest.epoch, beat), now_s
        if beat is not None and beat.state == ENDED:
            return Turn(OVER, manifest.epoch, f"the run has ended, and {who} has stopped")
        if beat is not None and beat.state != SERVING:
            return Turn(TRY, manifest.epoch, f"{who} has stopped")
        silent_s = now_s - self._since_s
        if silent_s >= self.silence_s:
            why = f"{who} has shown no sign of life for {silent_s:.0f} s"
            return Turn(TRY, manifest.epoch, why)
        return Turn(WAIT, manifest.epoch, f"{who} serves the run")
