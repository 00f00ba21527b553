"""What `join` returns: the training loop's side of a learner.

`step()` is called between two optimizer steps. It carries out what the ferry ordered for this
boundary, tells the ferry that it was crossed, and returns: it never waits for a network, a peer,
the syncer or a device, and never touches a socket. Counters rise only; `progress` too.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from atoll.core import events as ev
from atoll.core.order import EpochOrder
from atoll.ferry.ferry import ALONE, Ferry
from atoll.ferry.island import Island
from atoll.ferry.mailbox import Crossed, Job, Mailbox
from atoll.learner.batches import Batches, Orders, loader_for
from atoll.learner.errors import DataError, FerryDiedError, LearnerOverError
from atoll.learner.later import Later, Scalar
from atoll.learner.notice import RESERVE_S, Notice
from atoll.learner.restoring import REWARM_STEPS, Restored
from atoll.learner.shards import Shard, Shards
from atoll.learner.undone import UndoneCheck

PACE_SHARE = 0.2
"""Weight of the newest step in the smoothed duration of a step."""
NAP_S = 0.5

log = logging.getLogger("atoll.learner")


@dataclass(slots=True)
class Counters:
    """What this process has trained. Tokens of the newest steps may not be known yet."""

    step: int = 0
    tokens: int = 0
    loss: Scalar | None = None
    pace_s: float = 0.0
    stepped_s: float = 0.0
    progress: float = 0.0


class Learner:
    """Take part in a run; made by `atoll.join`, ended by `close` or the end of its `with`."""

    def __init__(self, island: Island, mailbox: Mailbox, ferry: Ferry, leave_s: float):
        self._island = island
        self._mailbox = mailbox
        self._ferry = ferry
        self._leave_s = leave_s
        self._counters = Counters()
        self._later = Later()
        self._left: tuple[Job, ...] = ()
        self._check = UndoneCheck(island.layout, island.tensors)
        self._data: Batches | Shards | None = None
        self._taken: deque[tuple[int, ev.DataTaken]] = deque()
        self._pid = os.getpid()
        self._closed = False
        self.notice = Notice()
        self.restored = Restored("first", "this learner has not joined yet")
        """Whose inner optimizer state this learner began with, and why."""

    # ------------------------------------------------------------ the loop

    def step(self, *, tokens: Scalar, loss: Scalar | None = None, applied: bool = True) -> bool:
        """Between two steps: after the optimizer's, with the tokens of all micro-batches.

        `applied=False` for a step that was skipped (AMP found an overflow): its tokens do not
        count. Tokens and loss may be device tensors. Returns whether the run is still on.
        """
        mailbox = self._mailbox
        if mailbox.cause is not None or self._closed or os.getpid() != self._pid:
            self._refuse()
        counters = self._counters
        if applied:
            self._count(tokens, loss)
            if self._data is not None:
                self._acknowledge(self._data)
            if not self._check.decided:
                self._check.stepped()
        jobs = mailbox.jobs
        if jobs or self._left:
            self._boundary()
        else:
            mailbox.inbox.put(Crossed(counters.step, counters.tokens, counters.pace_s))
        if self._data is not None and self._data.wants and not self._taken:
            self._data.ask()  # after the boundary, so that the positions it tells come first
        return self._is_on()

    def _is_on(self) -> bool:
        """Whether the run goes on with this learner; raises when it ended as it should not."""
        mailbox = self._mailbox
        if mailbox.cause is not None:
            mailbox.check()
        if mailbox.over is not None and mailbox.failed:
            raise LearnerOverError(str(mailbox.over))
        return mailbox.over is None and not self._closed and not self.notice.is_given

    def _acknowledge(self, data: Batches | Shards) -> None:
        """This step was done on what the loop was given since the last one.

        Told once the step's tokens are known: what is merged up to them then holds the step.
        """
        counters = self._counters
        for taken in data.acknowledge():
            self._taken.append((counters.step, taken))
        known_step = counters.step - len(self._later)
        while self._taken and self._taken[0][0] <= known_step:
            self._mailbox.inbox.put(self._taken.popleft()[1])

    def _count(self, tokens: Scalar, loss: Scalar | None) -> None:
        counters = self._counters
        now_s = time.monotonic()
        if counters.stepped_s:
            took_s = now_s - counters.stepped_s
            known_s = counters.pace_s or took_s
            counters.pace_s = known_s + PACE_SHARE * (took_s - known_s)
        counters.step += 1
        counters.stepped_s = now_s
        on_device = isinstance(loss, Tensor) and loss.is_cuda
        if type(tokens) is int and not on_device and not self._later:
            if isinstance(loss, Tensor) and loss.requires_grad:
                loss = loss.detach()  # or the step's whole graph would be kept
            self._add(tokens, loss)
            return
        self._later.give(*((tokens,) if loss is None else (tokens, loss)))
        for group in self._later.take():
            self._add(round(group[0]), group[1] if len(group) > 1 else None)

    def _add(self, tokens: int, loss: Scalar | None) -> None:
        if tokens < 0:
            raise ValueError(f"a step of {tokens} tokens: give the tokens of all micro-batches")
        self._counters.tokens += tokens
        if loss is not None:
            self._counters.loss = loss

    def _boundary(self) -> None:
        """Carry out what was ordered, and say so."""
        done = self._island.carry_out([*self._still_wanted(), *self._mailbox.take()])
        self._left = done.left
        counters = self._counters
        for job in done.inner:
            job.step = counters.step
        crossed = Crossed(
            counters.step,
            counters.tokens,
            counters.pace_s,
            done.cuts,
            done.installs,
            done.inner,
        )
        self._mailbox.inbox.put(crossed)

    def _still_wanted(self) -> list[Job]:
        return [job for job in self._left if not job.withdrawn]

    def _refuse(self) -> None:
        if os.getpid() != self._pid:
            raise LearnerOverError("this process is a fork of the learner's: step() is not for it")
        self._mailbox.check()
        raise LearnerOverError("this learner was closed; join again to take part")

    # ------------------------------------------------------------ data

    def batches(
        self,
        data: Any,
        batch_size: int = 0,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        **options: Any,
    ) -> Iterator[Any]:
        """Batches of a map-style data set (or of a DataLoader over one) until the run is over.

        Items come from the run's leases, so that all learners together make passes over the data;
        `[run] dataset_items` must be `len(data)`, the same for everybody. `step()` acknowledges
        all batches that were handed out before it. Only the first batch may wait for a lease, at
        most `FIRST_LEASE_S`. Should leases run out later, the loop goes on with items in an order
        of this life's own, counted in `repeated_items`. Without leases in the run, that is all.

        `options` go to `torch.utils.data.DataLoader` (pin_memory, worker_init_fn, ...).
        """
        terms = self._ferry.passage.terms.data
        if terms.num_streams:
            raise DataError(
                f"this run leases {terms.num_streams} streams, not items of a data set: use "
                "learner.shards, or set num_streams = 0 and dataset_items in [run]"
            )
        reader = self._data if isinstance(self._data, Batches) else None
        reader = reader or Batches(self._mailbox, self._is_on, terms)
        seeds = self._seed("data"), self.data_seed
        options = {"collate_fn": collate, "num_workers": num_workers, **options}
        loader, num_items = loader_for(data, reader, batch_size, options)
        orders = Orders(*(EpochOrder(num_items, seed) for seed in seeds))
        self._data = reader.begin(orders)
        return reader.read(loader)

    def shards(self, num_streams: int) -> Iterator[Shard]:
        """Streams of data that this learner is to read, one after another, until the run is over.

        `num_streams` must be the run's `[run] num_streams`. See `Shard` for how to read one.
        """
        reader = self._data if isinstance(self._data, Shards) else None
        reader = reader or Shards(self._mailbox, self._is_on, self._ferry.passage.terms.data)
        self._data = reader.begin(num_streams)
        return reader.read()

    @property
    def repeated_items(self) -> int:
        """Items trained from an order of this life's own because no lease was at hand."""
        return self._data.repeats if isinstance(self._data, Batches) else 0

    # ------------------------------------------------------------ beside the loop

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """The loop does something else (evaluation, saving): nobody waits for its steps."""
        self._ferry.tell(ev.BusySince(what))
        try:
            yield
        finally:
            self._counters.stepped_s = 0.0
            self._ferry.tell(ev.BusyOver())

    @property
    def progress(self) -> float:
        """Share of the run's budget that is trained: monotone, 0 to 1."""
        figures, counters = self._mailbox.figures, self._counters
        if figures.budget > 0:
            own = max(0, counters.tokens - figures.start - figures.counted)
            share = min(1.0, (figures.trained + own) / figures.budget)
            counters.progress = max(counters.progress, share)
        return counters.progress

    @property
    def warmup(self) -> float:
        """Factor for the learning rate, 0 to 1: below 1 in the first steps on fresh inner state."""
        if self.restored.source != "fresh":
            return 1.0
        return min(1.0, (self._counters.step + 1) / REWARM_STEPS)

    @property
    def loss(self) -> float | None:
        """The newest loss that has been read."""
        loss = self._counters.loss
        return None if loss is None else float(loss)

    @property
    def why_over(self) -> str:
        """Why `step()` returned False, where that was not for a notice; empty while it is on."""
        over = self._mailbox.over
        return "" if over is None else str(over)

    @property
    def is_alone(self) -> bool:
        """`step()` returned False because the syncer was not reached for too long."""
        over = self._mailbox.over
        return over is not None and over.code == ALONE

    @property
    def incarnation(self) -> int:
        """Which life of this learner it is, as issued by the coordinator."""
        return self._mailbox.incarnation

    @property
    def farewell(self) -> str:
        """Why this learner takes no further part; empty while it does."""
        return str(self._mailbox.over or "")

    @property
    def data_seed(self) -> int:
        """For this life's own data order: differs between learners and between lives."""
        return self._seed(f"{self._ferry.passage.name}/{self.incarnation}")

    def _seed(self, use: str) -> int:
        passage = self._ferry.passage
        text = f"{passage.terms.seed}/{passage.door.run}/{use}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of this island should hold beside model and optimizer."""
        counters = self._counters
        return {
            "run": self._ferry.passage.door.run,
            "name": self._ferry.passage.name,
            "incarnation": self.incarnation,
            "layout": self._island.layout.fingerprint(),
            "step": counters.step,
            "tokens": counters.tokens,
            "progress": self.progress,
        }

    # ------------------------------------------------------------ coming and going

    def wait_until_installed(self, until_s: float) -> str:
        """Install what comes until every fragment is there; the reason why not, or nothing."""
        mailbox = self._mailbox
        self._island.watch = self._check.watch
        while not mailbox.joined:
            if mailbox.cause is not None:
                return f"{type(mailbox.cause).__name__}: {mailbox.cause}"
            if mailbox.over is not None:
                return str(mailbox.over)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return mailbox.trouble or "version 0 of every fragment was not there in time"
            self._wait_for_news(left_s)
        return ""

    def _wait_for_news(self, left_s: float) -> None:
        self._mailbox.news.wait(min(left_s, NAP_S))
        self._mailbox.news.clear()
        if self._mailbox.jobs or self._left:
            self._boundary()

    def close(self, limit_s: float | None = None, why: str = "the loop is over") -> None:
        """Hand in what was trained since the last cut, within the limit, and go."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self._go_with_the_interpreter)
        mailbox, goodbye_s = self._mailbox, GOODBYE_S
        limit_s = self._leave_s if limit_s is None else limit_s
        if self.notice.is_given:
            why = f"{self.notice.name}: it was told to leave"
            log.info("%s; %g s to hand in what is there", why, self._leave_s)
            reserve_s = min(RESERVE_S, self._leave_s / 2)
            limit_s = min(limit_s, max(0.0, self.notice.left_s(self._leave_s) - reserve_s))
            goodbye_s = reserve_s / 2
        until_s = time.monotonic() + limit_s
        if limit_s > 0:
            self._read_the_rest()
        self._ferry.tell(ev.LeaveAsked(why, limit_s))
        while mailbox.over is None and mailbox.cause is None:
            left_s = until_s + NAP_S - time.monotonic()
            if left_s <= 0:
                break
            self._wait_for_news(left_s)
        self._ferry.join(goodbye_s)
        self.notice.forget()
        self._island.watch = _nobody
        if limit_s > 0:
            mailbox.check()

    def _read_the_rest(self) -> None:
        """The last steps' tokens: here it may be waited for the device."""
        for group in self._later.settle():
            self._add(round(group[0]), group[1] if len(group) > 1 else None)
        self._boundary()

    def go_with_the_interpreter(self) -> None:
        """A loop that ends without `close` leaves all the same, before threads are stopped."""
        atexit.register(self._go_with_the_interpreter)

    def _go_with_the_interpreter(self) -> None:
        self.close(0.0, "the process ends")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(0.0, f"the loop ended with {type(error).__name__}")
        except FerryDiedError:
            return  # the loop's own exception is the news


GOODBYE_S = 5.0
"""Longest wait for the farewell to be sent and the sockets to be closed."""


def _nobody(fragment: int, done: bool) -> None:
    """Nobody watches installs any more."""
