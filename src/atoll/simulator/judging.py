"""Held-out loss of a simulated run: a glance on the way, and a judgement at the end.

A glance reads a few windows. The judgement reads them all, up to `MOST_WINDOWS`, and says what each
of `STRETCHES` stretches of the text gives, since another text would give another loss. Settings
that are tuned and figures that are told should not come from the same text: either half can be
asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from typing import Literal

from torch import nn

from atoll.train.data import Ids, TokenSource
from atoll.train.settings import TrainSettings
from atoll.train.step import evaluate

HeldOut = Literal["all", "tuning", "test"]
"""The whole held-out text, its first half, or its second one."""
STRETCHES = 16
MOST_WINDOWS = 8192


class Diverged(ValueError):
    """Numbers that left the finite ones."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Nats per token, over all windows and in each stretch of them."""

    loss: float
    by_stretch: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Share:
    """Windows `start` to `stop` of a source, as a source."""

    source: TokenSource
    start: int
    stop: int

    @property
    def description(self) -> str:
        """As the whole."""
        return self.source.description

    def __len__(self) -> int:
        return self.stop - self.start

    def window(self, index: int) -> tuple[Ids, Ids]:
        """Window number `index` of the share."""
        return self.source.window(self.start + index)


def part_of(held_out: TokenSource, part: HeldOut) -> TokenSource:
    """The windows that are asked for."""
    half = len(held_out) // 2
    if part == "all" or half == 0:
        return held_out
    return Share(held_out, 0, half) if part == "tuning" else Share(held_out, half, len(held_out))


def glance(model: nn.Module, train: TrainSettings, text: TokenSource) -> float:
    """The same few windows every time."""
    return _finite(
        evaluate(model, text, train.num_evaluation_batches, train.batch_size, train.step)
    )


def judge(model: nn.Module, train: TrainSettings, text: TokenSource) -> Judgement:
    """All windows, or that many of them spread evenly."""
    num_windows = min(len(text), MOST_WINDOWS)
    num_stretches = min(STRETCHES, num_windows)
    edges = [len(text) * place // num_stretches for place in range(num_stretches + 1)]
    num_batches = math.ceil(num_windows / num_stretches / train.batch_size)
    losses, counts = [], []
    for start, stop in pairwise(edges):
        stretch = Share(text, start, stop)
        loss = evaluate(model, stretch, num_batches, train.batch_size, train.step)
        losses.append(_finite(loss))
        counts.append(len(stretch))
    pairs = zip(losses, counts, strict=True)
    return Judgement(fsum(loss * count for loss, count in pairs) / sum(counts), tuple(losses))


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"the held-out loss is {loss}")
    return loss
