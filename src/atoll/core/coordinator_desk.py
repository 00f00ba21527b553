"""The coordinator's desk: its state, its settings, and the effects of the event at hand.

The parts of the coordinator (attendance, phases, and the core itself) work at one desk, so each
stays small and none of them holds anything of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core import effects as fx
from atoll.core.coordinator_state import (
    ENDED,
    FINISHING,
    CoordinatorState,
    Life,
    Record,
    RunSettings,
)
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings

PROGRESS = "progress"


@dataclass(slots=True)
class Desk:
    """What the parts of the coordinator share."""

    settings: ProtocolSettings
    run: RunSettings
    state: CoordinatorState
    shards: tuple[str, ...]
    out: list[fx.Effect] = field(default_factory=list)

    def send(self, to: tuple[str, ...], message: object, reason: Reason) -> None:
        """Deliver a message, if there is anybody to deliver it to."""
        if to:
            self.out.append(fx.Send(to, message, reason))

    def note(self, code: str, sentence: str) -> None:
        """Tell people."""
        self.out.append(fx.Note(Reason(code, sentence)))

    def refuse(self, who: str, code: str, sentence: str) -> None:
        """The event changed nothing."""
        self.out.append(fx.Refuse(who, Reason(code, sentence)))

    def refused(self) -> bool:
        """Whether the event at hand was refused: nothing else may follow from it."""
        return bool(self.out) and isinstance(self.out[-1], fx.Refuse)

    def refuse_stale(self, name: str, incarnation: int) -> None:
        """Somebody spoke who is not there, or not any more."""
        self.refuse(name, "stale_incarnation", f"no present life {incarnation} of {name}")

    def record(self, kind: str, fields: dict[str, str], reason: Reason, wait: bool) -> None:
        """Make something durable; with `wait` it counts, and is told, only when it is."""
        self.state.record_number += 1
        number = self.state.record_number
        if wait:
            self.state.pending[number] = Record(kind, fields)
        else:
            self.state.apply(kind, fields)
        self.out.append(fx.Persist(number, kind, tuple(fields.items()), reason))

    def settle_leases(self, life: Life) -> None:
        """Let go of the leases of which all work is merged."""
        for number in self.state.leases.settle(life.incarnation, life.floor):
            reason = Reason("done", f"lease {number} is merged into every fragment")
            self.record("done", {"lease": str(number)}, reason, wait=False)

    def release(self, life: Life) -> None:
        """Nothing depends any more on a life that is over: its data goes back."""
        assert life.ending, "a present life keeps its leases"
        self.state.leases.give_back(life.incarnation)
        del self.state.lives[life.incarnation]

    def arm_progress(self) -> None:
        """Keep announcing progress as long as somebody may need it."""
        state = self.state
        needed = bool(state.roster.members) or state.phase == FINISHING
        if needed and state.phase != ENDED:
            state.deadlines.setdefault(PROGRESS, state.now_s + self.run.progress_every_s)
