"""What a shard knows: plain values only, so that it can be kept, sent and restored."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.effects import Merge
from atoll.core.ids import Cut, Mark
from atoll.core.membership import Roster
from atoll.core.quorum import Round
from atoll.core.schedule import Schedule


@dataclass(slots=True)
class Seat:
    """What a shard keeps of one life of a learner; lists are by index of its own fragments.

    `dropped` is the newest cut of a fragment that was dropped though it might have been merged.
    """

    incarnation: int
    through: list[int]
    called_tokens: list[int]
    missed: list[int]
    answered: list[int]
    announced: list[tuple[int, float]]
    arrive_s: float = 0.0
    upload_s: float = 0.0
    fetch_s: float = 0.0
    left: bool = False
    dropped: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Fragment:
    """One fragment: its version, the round or merge under way, and cuts that wait.

    `calls` are the last rounds by number and time, `fallback` late cuts by learner.
    """

    number: int
    version: int = -1
    digest: str = ""
    round_number: int = 0
    calls: list[tuple[int, float]] = field(default_factory=list)
    published_s: float = 0.0
    closed_s: float = 0.0
    round: Round | None = None
    merge: Merge | None = None
    retry_at_s: float = float("inf")
    retry_pause_s: float = 0.0
    fallback: dict[str, Cut] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    merged_tokens: int = 0
    last_called: bool = False
    final: bool = False

    def called_s(self, number: int) -> float:
        """When a round was called; infinity when that is too long ago to be known."""
        return next((at_s for each, at_s in self.calls if each == number), float("inf"))

    @property
    def at_rest(self) -> bool:
        """No round is open and no merge under way."""
        return self.round is None and self.merge is None


@dataclass(slots=True)
class Tally:
    """Counts since the shard began; what the status and the reports are made of."""

    merges: int = 0
    thin: int = 0
    solo: int = 0
    abandoned: int = 0
    learners_merged: int = 0
    learners_live: int = 0
    steps_merged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ShardState:
    """All that a shard core is.

    `early` are lives that connected before they were admitted, `over` the last life of a name that
    is known to have ended.
    """

    epoch: int
    fragments: list[Fragment]
    schedule: Schedule
    roster: Roster = field(default_factory=Roster)
    seats: dict[str, Seat] = field(default_factory=dict)
    early: dict[str, int] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    now_s: float = 0.0
    quorum_wait_s: float = 0.0
    merge_s: float = 0.0
    finish_limit_s: float = 0.0
    below_quorum_since_s: float = -1.0
    tally: Tally = field(default_factory=Tally)
