"""Between the training thread and the ferry: orders one way, crossed boundaries the other.

No lock: orders lie in a deque and boundaries in a queue, whose single operations are atomic. Must
never make the training thread wait, nor raise the ferry's troubles anywhere but there. An order
that was taken back is only marked, so whoever took it first decides, and the ferry can tell.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from atoll.core.ids import CutId
from atoll.core.messages import Granted
from atoll.core.reasons import Reason
from atoll.ferry.errors import FerryDiedError
from atoll.ferry.inner import InnerCopy
from atoll.ferry.receipt import Received
from atoll.ferry.staging import Event, Staging
from atoll.merge.chain import Published


@dataclass(eq=False, slots=True)
class CutJob:
    """Copy this fragment at the next boundary, as cut `id`, after what is to be installed."""

    fragment: int
    id: CutId
    withdrawn: bool = False


@dataclass(eq=False, slots=True)
class InstallJob:
    """Install this version at the next boundary; `ready`: its upload to the device is done."""

    fragment: int
    published: Published
    received: Received
    ready: Event | None = None
    withdrawn: bool = False


@dataclass(eq=False, slots=True)
class InnerJob:
    """Copy a fragment's inner state at the next boundary. `taken`: it was as it had been planned.

    `step` is the one after which it was copied.
    """

    copy: InnerCopy
    withdrawn: bool = False
    taken: bool = False
    step: int = 0

    @property
    def fragment(self) -> int:
        """Whose inner state it is."""
        return self.copy.fragment


Job = CutJob | InstallJob | InnerJob


@dataclass(frozen=True, slots=True)
class Inherited:
    """A peer's inner state, all fragments of it; or none (donor ""), and why."""

    donor: str
    bodies: Mapping[int, memoryview]
    reason: Reason


@dataclass(frozen=True, slots=True)
class TakenCut:
    """A copy, and the version that was held when it was made."""

    job: CutJob
    staging: Staging
    base: Published


class Crossed(NamedTuple):
    """The training thread was between two steps, and what it did there."""

    step: int
    tokens: int
    pace_s: float
    cuts: tuple[TakenCut, ...] = ()
    installs: tuple[InstallJob, ...] = ()
    inner: tuple[InnerJob, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """The run's progress as last announced. `start` is where this life's own count began."""

    trained: int = 0
    counted: int = 0
    budget: int = 0
    start: int = 0


@dataclass(slots=True)
class Mailbox:
    """Everything that the two threads share, beside tensors named in jobs."""

    inbox: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)
    """What the ferry is told: events, boundaries, results of transfers."""
    jobs: deque[Job] = field(default_factory=deque)
    leases: deque[tuple[int, Granted]] = field(default_factory=deque)
    """Leases that were granted, each with the life of this learner that it was granted to."""
    news: threading.Event = field(default_factory=threading.Event)
    """Set by the ferry when there may be something to do; only join, close and whoever has no
    data at all yet wait for it."""
    figures: Figures = field(default_factory=Figures)
    inherited: Inherited | None = None
    """What joining waited for; None where nobody asked for a peer's inner state."""
    joined: bool = False
    incarnation: int = 0
    over: Reason | None = None
    failed: bool = False
    cause: BaseException | None = None
    trouble: str = ""
    """Why the syncer cannot be reached just now; empty while it can."""

    def order(self, job: Job) -> None:
        """The ferry leaves a job for the next boundary."""
        self.jobs.append(job)
        self.news.set()

    def take(self) -> list[Job]:
        """The training thread takes what is there."""
        taken: list[Job] = []
        while self.jobs:
            job = self.jobs.popleft()
            if not job.withdrawn:
                taken.append(job)
        return taken

    def lend(self, granted: Granted) -> None:
        """The ferry leaves a lease for whoever reads data."""
        self.leases.append((self.incarnation, granted))
        self.news.set()

    def end(self, reason: Reason, failed: bool) -> None:
        """This learner takes no further part."""
        self.failed, self.over = failed, reason
        self.news.set()

    def die(self, cause: BaseException) -> None:
        """The ferry is dead; the training thread raises this at its next step."""
        self.cause = cause
        self.news.set()

    def check(self) -> None:
        """Raise if the ferry is dead."""
        if self.cause is not None:
            raise FerryDiedError(
                "the thread that carries fragments to the syncer died, so nothing that is trained "
                f"from here on would be merged: {type(self.cause).__name__}: {self.cause}"
            ) from self.cause
