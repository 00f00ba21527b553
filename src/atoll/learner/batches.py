"""Batches from leased items: which indices come next, and what a step acknowledges of them.

The batch sampler runs in the training process, so a DataLoader's workers may prefetch while
positions follow only batches that were handed to the loop before a step. Must never wait for a
lease, save for the first one, which is the end of joining and has a deadline. With no lease at
hand the loop goes on with items in an order of this life's own: data seen again is better than a
device that stands still, it is counted, and said once when it begins and once when it is over.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, IterableDataset

from atoll.core import events as ev
from atoll.core.hand import LeaseHand, Span
from atoll.core.order import EpochOrder
from atoll.ferry.mailbox import Mailbox
from atoll.ferry.terms import DataTerms
from atoll.learner.errors import DataError

FIRST_LEASE_S = 10.0
"""Longest wait for the first lease."""
NAP_S = 0.5
_OURS = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "in_order", "generator")
_OF_A_LOADER = ("pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")

log = logging.getLogger("atoll.learner")


@dataclass(frozen=True, slots=True)
class Orders:
    """Places to items: the run's order, which leases are cut from, and this life's own."""

    run: EpochOrder
    own: EpochOrder


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch on its way to the loop: what of it is leased, and how far the own order went."""

    spans: tuple[Span, ...]
    num_own: int
    own_stop: int


class Batches:
    """Draws batches; `read` hands them to the loop, `acknowledge` is called by its steps."""

    def __init__(self, mailbox: Mailbox, is_on: Callable[[], bool], terms: DataTerms):
        self._mailbox = mailbox
        self._is_on = is_on
        self._terms = terms
        self._hand = LeaseHand()
        self._orders = Orders(EpochOrder(1, 0), EpochOrder(1, 0))
        self._drawn: deque[Drawn] = deque()
        self._own_drawn = self._own_given = 0
        self._reading = self._short = False
        self.repeats = 0

    @property
    def wants(self) -> bool:
        """Whether to ask for the next lease."""
        return self._hand.wants

    @property
    def has_leases(self) -> bool:
        """Whether this run leases items."""
        return self._terms.dataset_items > 0

    def begin(self, orders: Orders) -> Self:
        """Somebody is going to read."""
        if self._reading:
            raise DataError("this learner's batches are being read already: end that loop first")
        if not self.has_leases:
            log.info(
                "the run leases no data (dataset_items = 0 in [run]): this learner trains on all "
                "%d items, in an order of its own",
                orders.own.size,
            )
        self._orders = orders
        return self

    def check_size(self, num_items: int) -> None:
        """Refuse a data set that is not the one which leases are cut from."""
        if num_items < 1:
            raise DataError("the data set is empty: there is nothing to train on")
        leased = self._terms.dataset_items
        if leased not in (0, num_items):
            raise DataError(
                f"this data set has {num_items} items here, but the run leases {leased}: give "
                "every learner the same data; or begin the run with dataset_items = its size in "
                "[run], or with leases = false in [train.data] of the run file"
            )

    # ------------------------------------------------------------ the loop's side

    def read(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Batches, until the run is over. The loader is read over and over."""
        if self._reading:
            raise DataError("this learner's batches are being read already: end that loop first")
        self._reading = True
        try:
            if self.has_leases:
                self._await_first_lease()
            while self._is_on():
                for batch in loader:
                    self._give()
                    yield batch
                    if not self._is_on():
                        return
        finally:
            self._reading = False
            self._rewind()

    def acknowledge(self) -> list[ev.DataTaken]:
        """A step was done on all that was handed out."""
        self._look()
        return self._hand.acknowledge()

    def ask(self) -> None:
        """Tell that there is room for leases."""
        self._hand.wants = False
        self._mailbox.inbox.put(ev.DataLow(self._terms.leases_ahead))

    # ------------------------------------------------------------ the sampler's side

    def indices(self, batch_size: int) -> Iterator[list[int]]:
        """Batches of indices, as many as leases hold, and at least one.

        This begins only when nothing is prefetched any more; so that leases which are short
        against the prefetching run out into a pause of the prefetching, and not into repeats.
        """
        yield self._draw(batch_size)
        while not self.has_leases or self._has(batch_size):
            yield self._draw(batch_size)

    def _has(self, num_items: int) -> bool:
        self._look()
        return self._hand.num_items >= num_items

    def _draw(self, num_items: int) -> list[int]:
        self._look()
        spans = self._hand.draw(num_items)
        run, own = self._orders.run, self._orders.own
        items = [
            run.at(span.turn * run.size + index)
            for span in spans
            for index in range(span.first, span.stop)
        ]
        num_own = num_items - len(items)
        items += [own.at(self._own_drawn + offset) for offset in range(num_own)]
        self._own_drawn += num_own
        self._drawn.append(Drawn(spans, num_own, self._own_drawn))
        return items

    def _look(self) -> None:
        """Take what was granted to this life, and let go of what an earlier one held."""
        self._hand.begin_life(self._mailbox.incarnation)
        leases = self._mailbox.leases
        while leases:
            incarnation, granted = leases.popleft()
            if incarnation == self._hand.incarnation and granted.stream < 0:
                self._hand.take(granted)

    def _give(self) -> None:
        """The oldest batch that was drawn is handed to the loop."""
        drawn = self._drawn.popleft()
        self._look()
        self._hand.give(drawn.spans)
        self._own_given = drawn.own_stop
        if self.has_leases:
            self._count(drawn.num_own)

    def _count(self, num_own: int) -> None:
        self.repeats += num_own
        if num_own and not self._short:
            why = self._mailbox.trouble or "the coordinator has granted none"
            log.warning("no lease on data is at hand (%s): repeating data meanwhile", why)
        elif self._short and not num_own:
            log.info("there are leases again; %d items were repeated so far", self.repeats)
        self._short = num_own > 0

    def _rewind(self) -> None:
        """What was prefetched and never handed out will be drawn again."""
        self._drawn.clear()
        self._hand.rewind()
        self._own_drawn = self._own_given

    def _await_first_lease(self) -> None:
        self.ask()
        mailbox, until_s = self._mailbox, time.monotonic() + FIRST_LEASE_S
        while not self._has(1) and self._is_on():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            mailbox.news.wait(min(left_s, NAP_S))
            mailbox.news.clear()


class _Sampler:
    """What a DataLoader calls a batch sampler."""

    def __init__(self, reader: Batches, batch_size: int):
        self._reader = reader
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return self._reader.indices(self._batch_size)


def loader_for(
    data: Any, reader: Batches, batch_size: int, options: Mapping[str, Any]
) -> tuple[DataLoader[Any], int]:
    """A loader whose batches are drawn by `reader`, and the size of its data set.

    What a given DataLoader was made with is kept, save what says which items come when.
    """
    chosen = {key: value for key, value in options.items() if value is not None}
    for key in _OURS:
        if key in chosen:
            raise DataError(f"{key} cannot be chosen here: leases say which items come when")
    if isinstance(data, DataLoader):
        kept = {key: getattr(data, key) for key in _OF_A_LOADER} | {"collate_fn": data.collate_fn}
        num_workers = chosen.pop("num_workers", 0) or data.num_workers
        if num_workers:
            kept["prefetch_factor"] = data.prefetch_factor
        chosen = {**kept, "num_workers": num_workers, **chosen}
        data, batch_size = data.dataset, batch_size or data.batch_size or 0
    if isinstance(data, IterableDataset) or not _is_map_style(data):
        raise DataError(
            f"{type(data).__name__} has no length and items by index, so ranges of it cannot be "
            "leased: give a map-style data set, or use learner.shards for streams"
        )
    if batch_size < 1:
        raise DataError(f"batch_size = {batch_size}: give the items of one batch, 1 or more")
    num_items = len(data)
    reader.check_size(num_items)
    if chosen.get("num_workers"):
        chosen.setdefault("persistent_workers", True)
    # A generator of its own: a DataLoader without one draws from torch's global dice.
    generator = torch.Generator().manual_seed(num_items)
    sampler = _Sampler(reader, batch_size)
    return DataLoader(data, batch_sampler=sampler, generator=generator, **chosen), num_items


def _is_map_style(data: object) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")
