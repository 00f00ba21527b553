"""What the engine and the handlers work with: settings, store, memory, workers, figures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.syncer.durable import Keeper
from atoll.syncer.initial_file import InitialFile
from atoll.syncer.intake import Intake
from atoll.syncer.settings import SyncerSettings
from atoll.syncer.taping import Tapes
from atoll.syncer.workers import Workers

Post = Callable[..., bool]


@dataclass
class Counts:
    """Figures since the process began, for the metrics."""

    merges: int = 0
    merge_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    control_frames_in: int = 0
    control_frames_out: int = 0
    snapshots: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, code: str) -> None:
        """Something was refused; a count that is now and then one short does no harm."""
        self.refused[code] = self.refused.get(code, 0) + 1


@dataclass(frozen=True)
class Surroundings:
    """What the engine works with; made before it, gone after it."""

    settings: SyncerSettings
    keeper: Keeper
    intake: Intake
    workers: Workers
    counts: Counts
    post: Post
    on_fatal: Callable[[Exception], None]
    on_ended: Callable[[], None]
    initial: InitialFile | None = None
    tapes: Tapes | None = None
    initial_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while a fragment of version 0 becomes durable: the first complete one wins."""
