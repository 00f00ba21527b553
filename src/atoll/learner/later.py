"""Scalars that may still be on a device: read once they are there, never waited for.

`step()` is given the tokens and the loss of a step whose kernels may not have run. Asking a CUDA
tensor for its value would wait for all of them, so it is copied to pinned memory behind an event
and read at a later step. Must never lose a value: what is pending is read by `settle`, which waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.ferry.staging import Event, has_passed, new_event

Scalar = int | float | Tensor


@dataclass(slots=True)
class _Pending:
    values: tuple[Scalar, ...]
    ready: Event | None


class Later:
    """Groups of scalars in the order they were given."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def give(self, *values: Scalar) -> None:
        """Take a group; device tensors begin their way to the host."""
        ready: Event | None = None
        taken: list[Scalar] = []
        for value in values:
            if isinstance(value, Tensor) and value.is_cuda:
                held = torch.empty((), dtype=value.dtype, pin_memory=True)
                taken.append(held.copy_(value.detach(), non_blocking=True))
                ready = new_event()
                ready.record()
            elif isinstance(value, Tensor):
                taken.append(value.item())
            else:
                taken.append(value)
        self._pending.append(_Pending(tuple(taken), ready))

    def take(self) -> list[tuple[float, ...]]:
        """The groups that are there, oldest first."""
        found = []
        while self._pending:
            first = self._pending[0]
            if not has_passed(first.ready):
                break
            self._pending.popleft()
            found.append(tuple(_number(value) for value in first.values))
        return found

    def settle(self) -> list[tuple[float, ...]]:
        """All groups; waits for the device."""
        for pending in self._pending:
            if pending.ready is not None:
                pending.ready.synchronize()
        return self.take()


def _number(value: Scalar) -> float:
    return value.item() if isinstance(value, Tensor) else value
