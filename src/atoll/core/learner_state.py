"""What a learner knows: plain values only, so that it can be kept and restored."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.ids import NO_TRANSFER, CutId, TransferId
from atoll.core.ledger import FragmentLedger
from atoll.core.messages import DataPosition

NEVER = float("inf")

APART = "apart"
JOINING = "joining"
TRAINING = "training"
LEAVING = "leaving"
OVER = "over"

RESTORING = "restoring inner state"

LEASES_REMEMBERED = 64
"""Leases, and positions in them, that a learner can tell from new ones."""


@dataclass(slots=True)
class CutOrdered:
    """A cut that the training thread is to take at its next boundary, for round `call`."""

    id: CutId
    call: int


@dataclass(slots=True)
class InstallOrdered:
    """An install that the training thread is to carry out at its next boundary.

    `merged` is the cut whose fate the version settles (0: none), `accepted` the one whose
    displacement, by the `scale` it was merged with, is taken out of the learner's own work (-1:
    none), `code` why the rule applies.
    """

    version: int
    rule: str = "keep"
    accepted: int = -1
    scale: float = 1.0
    merged: int = 0
    code: str = "carried"


@dataclass(slots=True)
class Holding:
    """One fragment as the learner holds it, and what is under way with it.

    `call` is a round that waits for a cut (-1: the last cut before leaving), `tried` the origin of
    the work that was last handed in.
    """

    number: int
    base: int = -1
    latest: int = -1
    digest: str = ""
    heard_s: float = 0.0
    mark_cut: int = 0
    mark_version: int = -1
    fetching: int = -1
    fetched: int = -1
    full: bool = False
    fetch_again_s: float = NEVER
    call: int = 0
    called_s: float = 0.0
    last_call: int = 0
    tried: int = -1
    cut: CutOrdered | None = None
    install: InstallOrdered | None = None
    ledger: FragmentLedger = field(default_factory=FragmentLedger)


@dataclass(slots=True)
class Transfer:
    """An upload: waiting its turn, under way, or to be tried again."""

    fragment: int
    number: int
    under_way: bool = False
    again_s: float = NEVER
    pause_s: float = 0.0


@dataclass(slots=True)
class Restore:
    """A peer's inner state, while joining waits for it.

    `taken` fragments of the try at hand are here; `sizes` and `digests` are of those that the
    syncer has, by index. `until_s` is the deadline, once it was asked for.
    """

    kind: str = ""
    limit_s: float = 0.0
    waiting: bool = False
    until_s: float = NEVER
    transfer: TransferId = NO_TRANSFER
    donor: str = ""
    taken: int = 0
    fetching: bool = False
    sizes: dict[int, int] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Lending:
    """The copy of inner state that is being made or sent for an heir (index -1: none)."""

    transfer: TransferId = NO_TRANSFER
    index: int = -1


@dataclass(slots=True)
class LearnerState:
    """All that a learner core is. Positions count from the beginning of this life."""

    name: str
    process: str = ""
    phase: str = APART
    incarnation: int = 0
    num_shards: int = 0
    begun: bool = False
    initialising: bool = False
    finishing: bool = False
    holdings: list[Holding] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    links: dict[str, bool] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    next_cut: int = 1
    tau: int = 1
    step: int = 0
    position: int = 0
    life_step: int = 0
    life_position: int = 0
    pace_s: float = 0.0
    stepped_s: float = 0.0
    fetch_s: float = 0.0
    busy: str = ""
    beat_at_s: float = NEVER
    hello_at_s: float = NEVER
    settle_at_s: float = NEVER
    leave_at_s: float = NEVER
    leave_why: str = ""
    trained: int = 0
    counted: int = 0
    budget: int = 0
    progress: float = 0.0
    data_ahead: int = 0
    leases: list[int] = field(default_factory=list)
    taken: list[DataPosition] = field(default_factory=list)
    positions: list[DataPosition] = field(default_factory=list)
    restore: Restore = field(default_factory=Restore)
    lending: Lending = field(default_factory=Lending)
    now_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens trained in this life."""
        return self.position - self.life_position

    @property
    def steps(self) -> int:
        """Steps done in this life."""
        return self.step - self.life_step
