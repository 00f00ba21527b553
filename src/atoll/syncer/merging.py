"""One merge on a worker thread: contributions -> next version -> durable record -> outcome.

Touches nothing of the control thread's: it gets immutable states and pinned parcels, and its
outcome travels back as a value. Must never report a merge that is not durable (invariant 2).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.ids import CutId
from atoll.merge.codecs import Codec
from atoll.merge.merge import (
    Contribution,
    ContributionError,
    FragmentMerger,
    FragmentState,
    MergeError,
    MergeResult,
)
from atoll.store.errors import DiskFailed, DiskFull
from atoll.syncer.durable import Keeper
from atoll.syncer.errors import RefusedError
from atoll.syncer.intake import Intake
from atoll.syncer.taping import Tapes
from atoll.tape.format import MergeNote


@dataclass(frozen=True, slots=True)
class MergeJob:
    """All that a merge needs."""

    order: fx.Merge
    state: FragmentState
    merger: FragmentMerger
    codec: Codec
    intake: Intake
    keeper: Keeper
    tapes: Tapes | None = None


@dataclass(frozen=True, slots=True)
class MergeDone:
    """A merge that is durable."""

    order: fx.Merge
    result: MergeResult
    lsn: int
    merge_s: float
    note: MergeNote | None = None
    """Its numbers, where a tape is kept."""


def run_merge(job: MergeJob) -> MergeDone | ev.MergeFailed:
    """Merge and make durable. Only `Fenced`, and mistakes of ours, are raised."""
    order, began_s = job.order, time.monotonic()
    assert job.state.version + 1 == order.version, "the core merges into the newest version"
    with ExitStack() as pins:
        contributions, gone = _contributions(job, pins)
        if gone:
            return _failed(order, "missing", "the bytes are not here any more", tuple(gone))
        try:
            result = job.merger.merge(job.state, [each for each, _ in contributions])
        except ContributionError as error:
            bad = tuple(p.cut.id for p in order.parts if str(p.cut.id) == error.contribution)
            return _failed(order, "bad_contribution", error.reason, bad)
        except MergeError as error:
            everybody = tuple(part.cut.id for part in order.parts)
            return _failed(order, "not_finite", str(error), everybody)
        note = job.tapes.merge_note(order.fragment, contributions, result) if job.tapes else None
    try:
        lsn = job.keeper.merge(order, result)
    except DiskFull as error:
        return _failed(order, "disk_full", str(error), ())
    except DiskFailed as error:
        return _failed(order, "disk_failed", str(error), ())
    return MergeDone(order, result, lsn, time.monotonic() - began_s, note)


def _contributions(
    job: MergeJob, pins: ExitStack
) -> tuple[list[tuple[Contribution, str]], list[CutId]]:
    """What is here, each with its digest, and what is not."""
    here: list[tuple[Contribution, str]] = []
    gone: list[CutId] = []
    for part in job.order.parts:
        name = str(part.cut.id)
        parcel = job.intake.find((name, job.order.fragment))
        try:
            if parcel is None or not parcel.sealed:
                raise RefusedError(409, "missing", name)
            pins.enter_context(job.intake.pinned(parcel))
        except RefusedError:
            gone.append(part.cut.id)
            continue
        sums = parcel.sums
        found = Contribution(name, job.codec, parcel.body, part.weight, part.scale, sums)
        here.append((found, parcel.sha256))
    return here, gone


def _failed(order: fx.Merge, code: str, detail: str, bad: tuple[CutId, ...]) -> ev.MergeFailed:
    return ev.MergeFailed(order.fragment, order.version, code, detail, bad)
