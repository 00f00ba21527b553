"""Inner optimizer state on coming in: whose it is, put in place before the first step.

    kept        the optimizer that was given has state already: it is not touched
    peer        a healthy learner's, as the syncer relayed it
    checkpoint  this learner's own, from its local disk
    first       there is none to take: nothing has been merged in this run
    fresh       there was none to be had: the learning rate is warmed up again, over a few steps

Runs inside `join`, after the wait. What cannot be used is passed over with its reason, never in
part; afterwards inner state is the optimizer's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atoll.core.donors import WARM_STEPS
from atoll.ferry.inner import InnerState
from atoll.ferry.inner_file import Owner, read_inner
from atoll.ferry.mailbox import Inherited
from atoll.fragments.inner import InnerStateError

Source = Literal["kept", "peer", "checkpoint", "first", "fresh"]
REWARM_STEPS = WARM_STEPS
"""Steps over which the learning rate rises again when inner state had to begin anew."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Whose inner optimizer state a learner began with, and why."""

    source: Source
    sentence: str
    donor: str = ""
    """The peer whose state it is."""
    num_tensors: int = 0
    num_fragments: int = 0
    took_s: float = 0.0
    """From the call of `join` until the state was in place."""

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known when everything was waited for."""

    under_way: bool
    """Something has been merged in this run."""
    inherited: Inherited | None
    checkpoint: Path | None
    owner: Owner


def restore(inner: InnerState, around: Circumstances) -> Restored:
    """Put the best inner state in place that is to be had, and say whose it is."""
    if inner.is_there:
        return Restored("kept", "the optimizer that was given has state of its own, which stays")
    reasons = []
    num_fragments = inner.layout.num_fragments
    peer = around.inherited
    if peer is not None and peer.donor:
        try:
            num_tensors = inner.install(peer.bodies)
        except InnerStateError as error:
            reasons.append(f"{peer.donor}'s does not fit: {error}")
        else:
            text = f"inner state is {peer.donor}'s: {num_tensors} tensors"
            return Restored("peer", text, peer.donor, num_tensors, num_fragments)
    elif peer is not None:
        reasons.append(str(peer.reason))
    if around.checkpoint is not None and inner.kind:
        try:
            saved = read_inner(around.checkpoint, around.owner, inner.layout)
            num_tensors = inner.install(saved.bodies)
        except InnerStateError as error:
            reasons.append(str(error))
        else:
            text = (
                f"inner state is this learner's own of {saved.age_s:.0f} s ago, step {saved.step}: "
                f"{num_tensors} tensors ({'; '.join(reasons) or 'no peer was asked'})"
            )
            return Restored("checkpoint", text, "", num_tensors, num_fragments)
    if not around.under_way:
        return Restored("first", "inner state begins with the run: nothing has been merged yet")
    if not inner.kind:
        reasons = ["no optimizer of these parameters was given to join()"]
    why = "; ".join(reasons) or "nobody was asked for any"
    text = f"inner state is fresh, the learning rate rises again over {REWARM_STEPS} steps: {why}"
    return Restored("fresh", text)
