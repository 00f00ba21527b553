"""What became of the tokens that were not merged, by reason, from the tapes of learners.

A learner's tape is run through its core again; the ledger that it ends with has every fate. What a
life that another one followed had in hand counts as died with it. Sums are means over fragments,
weighted by their sizes, so they can be held against the run's trained tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from atoll.core.learner_state import LearnerState
from atoll.tape.read import Entry, PartyTape, Segment
from atoll.tape.replay import core_of

DIED = "died with its learner"
OPEN = "not merged yet at the end"


@dataclass(slots=True)
class Fates:
    """Tokens by what became of them; `dropped` by reason."""

    trained: int = 0
    merged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def fates_of(tapes: Sequence[PartyTape], sizes: Sequence[int]) -> Fates:
    """Over all lives of all learners."""
    tokens: dict[str, float] = {}
    for tape in tapes:
        lives = tape.lives()
        for life in lives:
            if life[0].header.role == "learner":
                _add(tokens, _life(life, sizes, is_last=life is lives[-1]))
    whole = {reason: round(count) for reason, count in sorted(tokens.items())}
    trained, merged = whole.pop("trained", 0), whole.pop("merged", 0)
    return Fates(trained, merged, {reason: count for reason, count in whole.items() if count})


def _life(life: list[Segment], sizes: Sequence[int], is_last: bool) -> dict[str, float]:
    core = core_of(life[0].header, life[0].state)
    for segment in life:
        for item in segment.items():
            if isinstance(item, Entry):
                core.next_deadline_s()
                core.handle(item.now_s, item.event)
    state = core.state
    assert isinstance(state, LearnerState), "the tape of a learner"
    position, all_sizes = state.tokens, sum(sizes)
    found: dict[str, float] = {"trained": float(position)}
    for holding in state.holdings:
        ledger, share = holding.ledger, sizes[holding.number] / all_sizes
        _add(found, {"merged": ledger.merged * share})
        _add(found, {reason: count * share for reason, count in ledger.dropped.items()})
        left = position - ledger.merged - ledger.dropped_tokens
        _add(found, {OPEN if is_last else DIED: left * share})
    return found


def _add(to: dict[str, float], more: dict[str, float]) -> None:
    for reason, count in more.items():
        to[reason] = to.get(reason, 0.0) + count
