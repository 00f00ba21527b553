"""The island's own tensors, and what may be done with them at a boundary.

`carry_out` runs in the training thread between two steps and is the only place where the model is
read or written. In place, same storage, any floating dtype. Must never wait: not for a device, not
for the ferry. An install whose values are not on the device yet stays for the next boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.ferry.mailbox import CutJob, InnerJob, InstallJob, Job, TakenCut
from atoll.ferry.receipt import Received, as_held, part_of, receive_
from atoll.ferry.staging import Event, StagingPool, has_passed, new_event, new_stream
from atoll.fragments import Layout
from atoll.fragments.access import gather, scatter_
from atoll.merge.chain import Published

CUTS_AT_ONCE = 2
BLOCK_NUMEL = 1 << 19
"""Values of an install that are worked on at a time: 2 MiB of each of four tensors."""


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """What was done at a boundary, and what could not be done yet."""

    cuts: tuple[TakenCut, ...]
    installs: tuple[InstallJob, ...]
    left: tuple[Job, ...]
    inner: tuple[InnerJob, ...] = ()


class Island:
    """Named tensors under a layout."""

    def __init__(self, layout: Layout, tensors: Mapping[str, Tensor]):
        self.layout = layout
        self.tensors = dict(tensors)
        self.dtypes = {name: tensor.dtype for name, tensor in self.tensors.items()}
        self.device = next(iter(self.tensors.values())).device
        largest = max(fragment.numel for fragment in layout.fragments)
        self.pool = StagingPool(largest, self.device)
        self._scratch = torch.empty(0, dtype=torch.float32, device=self.device)
        self._side: torch.cuda.Stream | None = None
        self.held: dict[int, Published] = {}
        """The version installed of each fragment; the training thread's."""
        self.watch: Callable[[int, bool], None] = _nobody
        """Told of every install, before (False) and after (True)."""

    def prepare(self) -> None:
        """Take the memory that boundaries need."""
        # Full, for zeros may be pages that nobody has touched: the first write to each is slow.
        self._scratch = torch.full((self.pool.numel,), 0.0, dtype=torch.float32, device=self.device)
        self.pool.fill(CUTS_AT_ONCE)
        if self.device.type == "cuda":
            self._side = new_stream(self.device)

    # ------------------------------------------------------------ in the training thread

    def carry_out(self, jobs: Sequence[Job]) -> CarriedOut:
        """Installs first, then cuts; no cut of a fragment whose install has to wait."""
        installs: list[InstallJob] = []
        cuts: list[TakenCut] = []
        inner: list[InnerJob] = []
        left: list[Job] = []
        for job in jobs:
            if isinstance(job, InnerJob):
                job.taken = job.copy.take(self._side)
                inner.append(job)
            elif isinstance(job, InstallJob) and self._install(job):
                installs.append(job)
            elif isinstance(job, InstallJob):
                left.append(job)
        for job in jobs:
            if isinstance(job, CutJob) and any(each.fragment == job.fragment for each in left):
                left.append(job)
            elif isinstance(job, CutJob):
                staging = self.pool.take()
                staging.copy(self.layout, job.fragment, self.tensors, self._side)
                cuts.append(TakenCut(job, staging, self.held[job.fragment]))
        return CarriedOut(tuple(cuts), tuple(installs), tuple(left), tuple(inner))

    @torch.no_grad()
    def _install(self, job: InstallJob) -> bool:
        if not has_passed(job.ready):
            return False
        self.watch(job.fragment, False)
        if job.received.rule == "set":
            scatter_(self.layout, job.fragment, job.received.published, self.tensors)
        elif self._is_plain(job.fragment):
            self._receive_in_place(job.fragment, job.received)
        else:
            numel = self.layout.fragments[job.fragment].numel
            theta = gather(self.layout, job.fragment, self.tensors, out=self._scratch[:numel])
            receive_(theta, job.received)
            scatter_(self.layout, job.fragment, theta, self.tensors)
        self.held[job.fragment] = job.published
        self.watch(job.fragment, True)
        if self._side is not None:
            self._keep_until_used(job.received)
        return True

    def _is_plain(self, fragment: int) -> bool:
        """Its values lie in host memory as they travel: no copy is needed to work on them.

        On a device it would be, for a kernel launched per piece costs more than the copy.
        """
        tensors = [self.tensors[piece.name] for piece in self.layout.fragments[fragment].pieces]
        return self.device.type == "cpu" and all(
            each.dtype == torch.float32 and each.is_contiguous() for each in tensors
        )

    def _receive_in_place(self, fragment: int, received: Received) -> None:
        """The same arithmetic in blocks that stay in the cache from one operation to the next."""
        for piece in self.layout.fragments[fragment].pieces:
            row_numel = piece.numel // (piece.row_stop - piece.row_start)
            rows = self.tensors[piece.name].detach().view(-1)[piece.row_start * row_numel :]
            for start in range(0, piece.numel, BLOCK_NUMEL):
                stop = min(start + BLOCK_NUMEL, piece.numel)
                part = part_of(received, piece.offset + start, piece.offset + stop)
                receive_(rows[start:stop], part)

    def _keep_until_used(self, received: Received) -> None:
        """Their memory was taken on the side stream and is read on this one."""
        current = torch.cuda.current_stream(self.device)
        for tensor in (received.published, received.base, received.accepted):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(current)

    # ------------------------------------------------------------ in the ferry

    def rounded(self, fragment: int, published: Tensor) -> Tensor:
        """Published values as this island's dtypes hold them."""
        return as_held(self.layout, fragment, published, self.dtypes)

    def bring(self, received: Received) -> tuple[Received, Event | None]:
        """Put an install's values where the parameters are; the event says when they are there."""
        if self._side is None:
            return received, None
        ready = new_event()
        with torch.cuda.stream(self._side):
            moved = [self._to_device(t) for t in _tensors(received)]
            ready.record(self._side)
        published, base, accepted = moved
        assert published is not None
        there = Received(received.rule, published, base, accepted, received.alpha)
        return there, ready

    def _to_device(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def snapshot(self, fragment: int) -> Tensor:
        """A fragment as it is now, in host memory; only while nothing trains."""
        return gather(self.layout, fragment, self.tensors).cpu()


def _tensors(received: Received) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return received.published, received.base, received.accepted


def _nobody(fragment: int, done: bool) -> None:
    """Nobody watches installs."""
