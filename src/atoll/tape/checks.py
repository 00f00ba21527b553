"""What must hold over a whole run, checked from its tapes: the registry of the checks.

Each check reads facts and says what is wrong; its docstring is what a person is shown. A fact that
is missing because a tape is torn, was not kept, or its process was killed is unknown, not wrong;
two facts that contradict each other are always wrong. The checks themselves are in
`checks_order.py` and `checks_work.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.core.settings import ProtocolSettings
from atoll.tape.facts import LearnerFacts, SyncerFacts


@dataclass(frozen=True, slots=True)
class History:
    """All facts of a run."""

    settings: ProtocolSettings
    syncer: SyncerFacts
    learners: LearnerFacts

    @property
    def quorum(self) -> int:
        """The fewest contributions that a merge may have."""
        return 1 if self.settings.on_quorum_loss == "degrade" else self.settings.quorum

    def is_whole(self, fragment: int) -> bool:
        """Whether all that the shard of a fragment ever did is on tape."""
        facts = self.syncer
        from_begin = fragment in facts.owned and facts.oldest.get(fragment, 0) < 0
        return from_begin and fragment not in facts.gaps


@dataclass(slots=True)
class Found:
    """What a check found: how many things it looked at, what is wrong, what cannot be said."""

    looked: int = 0
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


Check = Callable[[History, Found], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Enter a check under its name."""
    assert function.__doc__, "a check says what must hold"
    CHECKS[function.__name__] = function
    return function
