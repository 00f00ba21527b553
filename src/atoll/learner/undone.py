"""Whether the optimizer undid an install, found out at the first one that tells.

An optimizer with copies of parameters (fp32 masters, averages, schedule-free) writes its own,
old values at its next step: what was installed is gone, and training goes on as if nobody had
merged anything. A few values of each piece are kept from before and after an install and compared
after the next step.

Says "undone" when values came back to within a tenth of the way to the old ones: at once for the
installs of joining, afterwards for three in a row. Once is not enough there: early in training all
islands walk the same way, so an install that takes a learner back by about one step is undone by
an honest next one now and then.
Says "fine" by the same measure, and then looks no further. Between the two it waits for the next
install. Never waits for a device.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from atoll.fragments import Layout
from atoll.learner.errors import InstallUndoneError
from atoll.learner.later import Later

VALUES_PER_PIECE = 64
NEAR = 0.1
TIMES = 3


class UndoneCheck:
    """`watch` is told of installs, `stepped` of optimizer steps."""

    def __init__(self, layout: Layout, tensors: Mapping[str, Tensor]):
        self._layout = layout
        self._tensors = tensors
        self._before: dict[int, list[Tensor]] = {}
        self._after: dict[int, list[Tensor]] = {}
        self._answers = Later()
        self._undone = 0
        self._times: deque[int] = deque()
        self.decided = False

    def watch(self, fragment: int, done: bool) -> None:
        """A fragment is about to be installed, or has been."""
        if not self.decided:
            (self._after if done else self._before)[fragment] = self._sample(fragment)

    def stepped(self) -> None:
        """The optimizer made a step: compare, and raise when an earlier comparison says undone."""
        if self.decided:
            return
        if self._after:
            is_whole = len(self._after) == self._layout.num_fragments
            self._times.append(1 if is_whole else TIMES)
            self._answers.give(*self._compare())
            self._before, self._after = {}, {}
        for to_old, to_new, way in self._answers.take():
            self._judge(to_old, to_new, way, self._times.popleft())

    def _judge(self, to_old: float, to_new: float, way: float, times: int) -> None:
        if not math.isfinite(way) or way <= 0:
            return
        self._undone = self._undone + 1 if to_old < NEAR * way else 0
        if self._undone >= times:
            raise InstallUndoneError(
                "the first optimizer step after a merged version was installed put the old values "
                "back: this optimizer keeps copies of the parameters of its own (fp32 masters, "
                "averages, schedule-free) and writes them over the model's. Give those tensors to "
                "atoll.join(..., params={name: tensor}), so that installs reach them"
            )
        self.decided = to_new < NEAR * way

    @torch.no_grad()
    def _compare(self) -> tuple[Tensor, Tensor, Tensor]:
        fragments = sorted(self._after)
        old = [each.to(torch.float32) for f in fragments for each in self._before[f]]
        new = [each.to(torch.float32) for f in fragments for each in self._after[f]]
        now = [each.to(torch.float32) for f in fragments for each in self._sample(f)]
        device = now[0].device
        before, after, here = (torch.cat([t.to(device) for t in each]) for each in (old, new, now))
        return (here - before).norm(), (here - after).norm(), (after - before).norm()

    def _sample(self, fragment: int) -> list[Tensor]:
        samples = []
        for piece in self._layout.fragments[fragment].pieces:
            tensor = self._tensors[piece.name].detach()
            rows = tensor[piece.row_start : piece.row_stop] if tensor.dim() else tensor
            first = rows[0] if rows.dim() else rows
            while first.dim() > 1:
                first = first[0]
            samples.append(first.reshape(-1)[:VALUES_PER_PIECE].clone())
        return samples
