"""What is done with copies of inner state: sent to an heir, or kept in the own checkpoint.

One copy at a time is ordered for a boundary, whoever it is for; an heir comes first, for it waits.
Sending and writing are done in transfer threads. Used by the ferry's thread. Must never keep a
reason to itself: what cannot be lent is told to the core, a checkpoint that fails is logged.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.ferry.bulk import BulkConnection
from atoll.ferry.inner import UNSTEPPED, InnerState
from atoll.ferry.inner_file import InnerFile
from atoll.ferry.mailbox import InnerJob, Mailbox
from atoll.ferry.transfers import Transfers
from atoll.fragments.inner import InnerStateError

log = logging.getLogger("atoll.learner")


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """A transfer thread has written a fragment; `trouble` if it could not."""

    trouble: str


class Checkpoints:
    """When which fragment is due for the checkpoint, and its way into the file."""

    def __init__(self, file: InnerFile, num_fragments: int, every_s: float):
        self._file = file
        self._num_fragments = num_fragments
        self._every_s = every_s
        self._due_s = 0.0
        self._fragment = 0
        self.is_writing = False

    def wants(self, now_s: float) -> int:
        """The fragment to copy next; -1 for none."""
        if not self._due_s:
            self._due_s = now_s + self._every_s
        return -1 if self.is_writing or now_s < self._due_s else self._fragment

    def write(self, job: InnerJob) -> str:
        """In a transfer thread: the next fragment; a sentence if that was not possible."""
        try:
            if job.copy.fragment == 0:
                self._file.begin()
            self._file.add(job.copy.body())
            if job.copy.fragment == self._num_fragments - 1:
                self._file.finish(job.step)
        except OSError as error:
            self._file.give_up()
            return f"no checkpoint of inner state: {error}"
        return ""

    def written(self, now_s: float, trouble: str) -> None:
        """A fragment is in the file, or the file is given up until the next time."""
        self.is_writing = False
        self._fragment += 1
        if trouble or self._fragment == self._num_fragments:
            self.postpone(now_s)

    def postpone(self, now_s: float) -> None:
        """From the beginning, the next time."""
        self._fragment, self._due_s = 0, now_s + self._every_s


class Errands:
    """Orders copies, and hands them on when they were made."""

    def __init__(
        self,
        inner: InnerState,
        mailbox: Mailbox,
        transfers: Transfers,
        checkpoints: Checkpoints | None,
    ):
        self.inner = inner
        self._mailbox = mailbox
        self._transfers = transfers
        self._checkpoints = checkpoints
        self._tell: Callable[[object], None] = mailbox.inbox.put
        self._job: InnerJob | None = None
        self._lends: fx.CopyInner | None = None
        self._serves: fx.CopyInner | None = None
        """Whom the ordered copy is for; None for the checkpoint."""

    def lend(self, order: fx.CopyInner) -> None:
        """An heir wants a copy; whatever was to be lent before is not wanted any more."""
        self._lends = order
        if self._job is not None and self._serves is not None:
            self._job.withdrawn = True
            self._job = None
        self._begin_to_lend()

    def _begin_to_lend(self) -> None:
        order = self._lends
        if order is None or self._job is not None:
            return
        if order.kind != self.inner.kind:
            mine = self.inner.kind or "none"
            self._refuse(order, "other_kind", f"its optimizer is {mine}, not {order.kind}")
        elif not self.inner.is_there:
            self._refuse(order, "no_state", UNSTEPPED)
        else:
            try:
                self._order(order.index, order)
            except InnerStateError as error:
                self._refuse(order, "unfit", str(error))

    def _order(self, fragment: int, serves: fx.CopyInner | None) -> None:
        self._job, self._serves = InnerJob(self.inner.plan(fragment)), serves
        self._mailbox.order(self._job)

    def _refuse(self, order: fx.CopyInner, code: str, why: str) -> None:
        self._lends = None
        self._tell(ev.InnerNotSent(order.transfer, order.index, code, why))

    def crossed(self, jobs: tuple[InnerJob, ...]) -> None:
        """A boundary was crossed, and these copies were made there."""
        for job in jobs:
            if job is self._job:
                self._job = None
                self._made(job, self._serves)
        self._begin_to_lend()
        self._look_at_checkpoint()

    def _made(self, job: InnerJob, order: fx.CopyInner | None) -> None:
        if order is None:
            self._keep(job)
        elif order is self._lends:
            if job.taken:
                self._lends = None
                log.debug("%s", _Lent(order, job))
                self._transfers.upload_inner(order, job.copy)
            else:
                self._refuse(order, "unfit", "its optimizer's state changed its shape")

    # ------------------------------------------------------------ the checkpoint

    def _look_at_checkpoint(self) -> None:
        checkpoints = self._checkpoints
        if checkpoints is None or self._job is not None or self._lends is not None:
            return
        fragment = checkpoints.wants(time.monotonic())
        if fragment < 0 or not self.inner.is_there:
            return
        try:
            self._order(fragment, None)
        except InnerStateError as error:
            log.warning("no checkpoint of inner state: %s", error)
            checkpoints.postpone(time.monotonic())

    def _keep(self, job: InnerJob) -> None:
        checkpoints = self._checkpoints
        assert checkpoints is not None, "only they order copies for nobody"
        if not job.taken:
            checkpoints.postpone(time.monotonic())
            return
        checkpoints.is_writing = True

        def task(_: BulkConnection) -> None:
            self._tell(CheckpointWritten(checkpoints.write(job)))

        self._transfers.workers.submit(task)

    def written(self, item: CheckpointWritten) -> None:
        """A transfer thread is done with a fragment of the checkpoint."""
        assert self._checkpoints is not None, "only they are written"
        if item.trouble:
            log.warning("%s", item.trouble)
        self._checkpoints.written(time.monotonic(), item.trouble)


@dataclass(frozen=True, slots=True)
class _Lent:
    """Put into words only where somebody reads them: the digest takes time."""

    order: fx.CopyInner
    job: InnerJob

    def __str__(self) -> str:
        digest = hashlib.sha256(self.job.copy.body()).hexdigest()
        at = f"fragment {self.order.index} after step {self.job.step}"
        return f"lends inner state of {at} in transfer {self.order.transfer}: sha256 {digest}"
