"""Streams that are leased: which one this learner reads, from where, and how far it came.

A position is opaque to everybody but the stream: JSON of its `state_dict()`, or any text that the
loop acknowledges. Keeps at-least-once as `batches` does: a position is told by the step after what
it stands for was handed out. One stream at a time and none ahead, or the first learners would hold
what the last ones need. Between two leases the last stream is read again from its beginning, and
the loop hears of it by `is_repeat`.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from atoll.core import events as ev
from atoll.core.messages import Granted
from atoll.ferry.mailbox import Mailbox
from atoll.ferry.terms import DataTerms
from atoll.learner.errors import DataError

FIRST_LEASE_S = 30.0
"""Longest wait for the first stream."""
NAP_S = 0.5
LONGEST_POSITION = 4096

log = logging.getLogger("atoll.learner")


class Shard:
    """One stream in this learner's hands.

        for shard in learner.shards(8):
            stream = dataset.shard(num_shards=8, index=shard.index)
            for batch in shard.read(stream):
                ...
                learner.step(tokens=...)

    `read` wants `state_dict` and `load_state_dict`. Without them begin at `position` yourself, and
    before each step call `acknowledge` with what you want to find there, at the end `finish`.
    """

    def __init__(self, granted: Granted, incarnation: int, is_repeat: bool = False):
        self.index = granted.stream
        self.turn = granted.turn
        self.position = "" if is_repeat else granted.position
        self.is_repeat = is_repeat
        """This stream is not leased just now: it is read again until the next lease is there."""
        self.granted = granted
        self.incarnation = incarnation
        self.finished = False
        self.is_over: Callable[[], bool] = lambda: self.finished
        self._state: Callable[[], Any] | None = None
        self._told = (self.position, False)
        self._num_steps = 0

    def read(self, stream: Iterable[Any]) -> Iterator[Any]:
        """What the stream has from the position on; its state is told by every step."""
        if self.position:
            load = getattr(stream, "load_state_dict", None)
            if load is None:
                raise DataError(f"{type(stream).__name__} has no load_state_dict to go on from")
            load(json.loads(self.position))
        self._state = getattr(stream, "state_dict", None)
        if self._state is None:
            raise DataError(f"{type(stream).__name__} has no state_dict: use shard.acknowledge")
        for item in stream:
            yield item
            if self.is_over():
                return
        self.finish()

    def acknowledge(self, position: str) -> None:
        """The next step has trained everything before this position."""
        if len(position) > LONGEST_POSITION:
            raise DataError(
                f"a position of {len(position)} characters is too long to be kept, at most "
                f"{LONGEST_POSITION}: acknowledge something shorter"
            )
        self.position = position

    def finish(self) -> None:
        """The stream has no more; the next step says so."""
        self.finished = True

    def stepped(self) -> list[ev.DataTaken]:
        """What a step has to tell."""
        self._num_steps += 1
        if self._state is not None and not self.finished:
            try:
                self.acknowledge(json.dumps(self._state()))
            except TypeError as error:
                raise DataError(f"the stream's state_dict is no JSON: {error}") from error
        now = (self.position, self.finished)
        if self.is_repeat or now == self._told:
            return []
        self._told = now
        return [ev.DataTaken(self.granted.lease, *now)]

    @property
    def is_empty(self) -> bool:
        """It came to its end and no step was done on it."""
        return self.finished and self._num_steps == 0


class Shards:
    """Takes streams one after another; `acknowledge` is called by steps."""

    def __init__(self, mailbox: Mailbox, is_on: Callable[[], bool], terms: DataTerms):
        self._mailbox = mailbox
        self._is_on = is_on
        self._terms = terms
        self._shard: Shard | None = None
        self._ended: deque[Shard] = deque()
        self._granted: deque[tuple[int, Granted]] = deque()
        self._reading = False
        self.wants = False
        self.repeats = 0

    def begin(self, num_streams: int) -> Self:
        """Somebody is going to read."""
        leased = self._terms.num_streams
        if num_streams != leased or not leased:
            raise DataError(
                f"shards({num_streams}) was asked for, but the run leases {leased} streams: set "
                "num_streams in [run] to the same number"
            )
        return self

    def read(self) -> Iterator[Shard]:
        """Streams, until the run is over. One that was left before its end comes again."""
        if self._reading:
            raise DataError("this learner's shards are being read already: end that loop first")
        self._reading = True
        try:
            while self._is_on():
                yield self._next()
        finally:
            self._reading = False

    def acknowledge(self) -> list[ev.DataTaken]:
        """A step was done on all that was handed out."""
        told = []
        while self._ended:
            shard = self._ended.popleft()
            if shard.incarnation == self._mailbox.incarnation:
                told += shard.stepped()
        if self._shard is not None and not self._is_void(self._shard):
            told += self._shard.stepped()
        return told

    def ask(self) -> None:
        """Ask for one stream when there is none at hand."""
        self.wants = False
        leased = self._shard is not None and not self._shard.is_repeat
        held = leased and self._shard is not None and not self._is_over(self._shard)
        self._mailbox.inbox.put(ev.DataLow(0 if held or self._has_lease() else 1))

    # ------------------------------------------------------------ inside

    def _next(self) -> Shard:
        last = self._shard
        if last is not None and not self._is_over(last):
            return self._hold(last.granted, last.is_repeat, last.position)
        if last is not None and last.is_empty:
            raise DataError(f"stream {last.index} is empty: there is nothing to train on")
        if last is not None and not last.is_repeat:
            self._ended.append(last)
        self.ask()
        if last is None:
            self._await_lease()
        if self._has_lease():
            _, granted = self._granted.popleft()
            return self._hold(granted, False, granted.position)
        assert last is not None, "the first stream was waited for"
        self.repeats += 1
        log.warning("no stream is free just now: reading stream %d again", last.index)
        return self._hold(last.granted, True, "")

    def _hold(self, granted: Granted, is_repeat: bool, position: str) -> Shard:
        shard = Shard(granted, self._mailbox.incarnation, is_repeat)
        shard.position = position
        shard.is_over = lambda: self._is_over(shard) or not self._is_on()
        self._shard = shard
        if not is_repeat:
            self.ask()
        return shard

    def _is_void(self, shard: Shard) -> bool:
        return shard.incarnation != self._mailbox.incarnation

    def _is_over(self, shard: Shard) -> bool:
        """At its end; or of an earlier life; or a repeat that a lease puts an end to."""
        return shard.finished or self._is_void(shard) or (shard.is_repeat and self._has_lease())

    def _has_lease(self) -> bool:
        mailbox = self._mailbox
        while mailbox.leases:
            self._granted.append(mailbox.leases.popleft())
        while self._granted and self._granted[0][0] != mailbox.incarnation:
            self._granted.popleft()
        return bool(self._granted)

    def _await_lease(self) -> None:
        until_s = time.monotonic() + FIRST_LEASE_S
        while not self._has_lease() and self._is_on():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            self._mailbox.news.wait(min(left_s, NAP_S))
            self._mailbox.news.clear()
        if not self._has_lease():
            why = self._mailbox.trouble or "all are in the hands of others"
            raise DataError(
                f"no stream was granted within {FIRST_LEASE_S:g} s ({why}): a run needs at least "
                f"as many streams as learners, and this one has {self._terms.num_streams}"
            )
