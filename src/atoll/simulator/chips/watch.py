"""The checkers in constant memory, for runs of simulated months."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.ids import Cut
from atoll.core.messages import Published
from atoll.simulator.checkers import Violation, Watch

VERSIONS_REMEMBERED = 16


@dataclass(slots=True)
class LeanWatch(Watch):
    """Forgets cuts, lives that are over and old versions; spans still show work merged twice."""

    lives: dict[str, int] = field(default_factory=dict)

    def merged(self, cut: Cut, version: int) -> None:
        """A cut was put into a durable version."""
        learner, incarnation = cut.id.learner, cut.id.incarnation
        if self.lives.get(learner, incarnation) != incarnation:
            self.spans = {key: end for key, end in self.spans.items() if key[0] != learner}
        self.lives[learner] = incarnation
        life = (learner, incarnation, cut.fragment)
        if cut.first_token < self.spans.get(life, 0):
            raise Violation(f"{cut.id} overlaps work up to {self.spans[life]} that was merged")
        self.spans[life] = cut.end_token

    def seen(self, message: object) -> None:
        """A learner was told something."""
        Watch.seen(self, message)
        if isinstance(message, Published):
            key = (message.fragment, message.version - VERSIONS_REMEMBERED)
            self.digests.pop(key, None)
