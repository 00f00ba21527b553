"""Staging: where a fragment is copied to at a boundary, before anything slow is done with it.

On the CPU the copy is the staging. On a CUDA device the copy is made there, on the current stream,
and travels to pinned memory on a side stream that waits for it, so the training thread waits for
neither. Buffers are kept and reused; one that is in use belongs to one cut alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from atoll.fragments import Layout
from atoll.fragments.access import gather

Event = torch.cuda.Event


def new_event() -> Event:
    """A mark in a CUDA stream."""
    return Event()  # type: ignore[no-untyped-call]


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream beside the current one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def has_passed(event: Event | None) -> bool:
    """The device is beyond this mark; there is nothing to wait for where there is none."""
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]


class Staging:
    """One buffer for a fragment of at most `numel` values."""

    def __init__(self, numel: int, device: torch.device):
        self.is_cuda = device.type == "cuda"
        self._host = torch.empty(numel, dtype=torch.float32, pin_memory=self.is_cuda)
        there = torch.empty(numel if self.is_cuda else 0, dtype=torch.float32, device=device)
        self._device = there if self.is_cuda else None
        self._done = new_event() if self.is_cuda else None
        self._numel = 0

    def touch(self) -> None:
        """Have the system hand the memory out now: a first write to each page is slow."""
        self._host.fill_(0.0)

    def copy(
        self,
        layout: Layout,
        fragment: int,
        tensors: Mapping[str, Tensor],
        side: torch.cuda.Stream | None,
    ) -> None:
        """Copy the fragment as it is at this point of the current stream; does not wait."""
        self._numel = layout.fragments[fragment].numel
        if self._device is None:
            gather(layout, fragment, tensors, out=self._host[: self._numel])
            return
        assert side is not None and self._done is not None, "a CUDA island has a side stream"
        copied = gather(layout, fragment, tensors, out=self._device[: self._numel])
        side.wait_stream(torch.cuda.current_stream(copied.device))
        with torch.cuda.stream(side):
            self._host[: self._numel].copy_(copied, non_blocking=True)
            self._done.record(side)

    def values(self) -> Tensor:
        """The copy in host memory. Waits for the device: not for the training thread."""
        if self._done is not None:
            self._done.synchronize()
        return self._host[: self._numel]


class StagingPool:
    """Kept buffers. A cut finds one waiting, save the first ones."""

    def __init__(self, numel: int, device: torch.device):
        self.numel = numel
        self.device = device
        self._free: deque[Staging] = deque()

    def fill(self, num_buffers: int) -> None:
        """Take the memory now rather than at a boundary."""
        for _ in range(num_buffers - len(self._free)):
            staging = Staging(self.numel, self.device)
            staging.touch()
            self._free.append(staging)

    def take(self) -> Staging:
        """A buffer for one cut."""
        try:
            return self._free.pop()
        except IndexError:
            return Staging(self.numel, self.device)

    def give_back(self, staging: Staging) -> None:
        """The cut's copy was encoded, or is not needed."""
        self._free.append(staging)
