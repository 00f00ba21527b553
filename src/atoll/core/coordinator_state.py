"""What the coordinator knows about a run, and how durable records change it.

Plain values only, so that it can be kept, sent and restored. `apply` is the one place where
something durable changes, and the same code runs live and at a restart: records are taken into
account in order of number, and `RecordRecovered` of a number that is in already changes nothing.

Kinds of records: `incarnation` (a life began), `departed` (a life is over), `grant` and `done`
(leases), `phase`. A lease comes back by `departed`, so it needs no record of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from atoll.core.ids import NO_TRANSFER, TransferId
from atoll.core.leases import Lease, LeaseBook, Stream
from atoll.core.membership import Roster
from atoll.core.settings import ProtocolSettings, SettingsError

_K = TypeVar("_K")
_V = TypeVar("_V")

INITIAL = "initialising"
TRAINING = "training"
FINISHING = "finishing"
ENDED = "ended"

LEFT = "left"
LOST = "lost"
REPLACED = "replaced"

REMEMBERED = 4096
"""How many processes that are over are remembered by name."""
FAREWELLS = 256
"""How many departures can be told again to a shard whose connection was lost."""
TELL_AGAIN = 5
"""How often a departure is told again without being asked."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One run: what is trained for how long, on which data, and how long to wait for whom."""

    run: str
    """Id of the run."""
    layout: str
    """Fingerprint of the fragments; a learner with another one cannot take part."""
    budget_tokens: int
    """Tokens to train, all learners together; then the run ends."""
    num_shards: int = 1
    """Shards of the syncer."""
    initial: Literal["learner", "file"] = "learner"
    """Who provides version 0: the first learner, or the syncer itself from a file."""
    lease_s: float = 120.0
    """An away learner keeps its session, cuts and data so long; then it is gone."""
    progress_every_s: float = 2.0
    """Time between two announcements of the trained tokens."""
    initialise_s: float = 120.0
    """Longest wait for the next fragment of version 0 before the next learner is asked."""
    last_round_s: float = 30.0
    """Longest last round of a fragment."""
    dataset_items: int = 0
    """Indices in one pass over the data set (0: no index leases)."""
    lease_items: int = 0
    """Indices in one lease."""
    num_streams: int = 0
    """Shards of a data stream (0: no stream leases; neither: learners bring their own data)."""
    leases_ahead: int = 2
    """Leases a learner may hold that it has not begun."""
    fragment_sizes: tuple[int, ...] = ()
    """Elements of each fragment, for the weighted total of merged tokens; empty: all alike."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(slots=True)
class Life:
    """One life of a learner, from its welcome until nothing depends on it any more.

    `through[p]` is the position in its own token count up to which fragment p has its work,
    `floor` the smallest of them. `strangers` are the shards that may not know this life yet.
    `since_s` is when it was last found away, or left; `ending` how it ended ("": it has not), and
    `let_go` the fragments in which nothing that it handed in before it left can be merged any more.
    """

    learner: str
    process: str
    incarnation: int
    through: list[int]
    strangers: list[int]
    floor: int = 0
    tokens: int = 0
    since_s: float = 0.0
    was_away: bool = False
    ending: str = ""
    let_go: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Farewell:
    """A departure that shards may have to be told again.

    `record` is that of the departure while it is not durable: until then nobody is told, or a crash
    could bring back a life that shards hold to be over.
    """

    learner: str
    code: str
    again: int = TELL_AGAIN
    record: int = 0


@dataclass(slots=True)
class Record:
    """A record on its way to durable storage; it counts once it is there."""

    kind: str
    fields: dict[str, str]


@dataclass(slots=True)
class Ask:
    """A learner that joins and waits for a peer's inner state, no longer than `until_s`.

    Fragment `wanted` was asked of the donor, the first `arrived` have come, the first `taken` are
    with the heir, `here` are size and digest of those between. `tried` are the lives that were
    donors in vain, `why` what became of the last one. Without a donor it waits until `patient_s`.
    """

    learner: str
    incarnation: int
    kind: str
    until_s: float
    patient_s: float
    due_s: float = math.inf
    donor: str = ""
    transfer: TransferId = NO_TRANSFER
    wanted: int = -1
    arrived: int = 0
    taken: int = 0
    here: dict[int, tuple[int, str]] = field(default_factory=dict)
    tried: list[int] = field(default_factory=list)
    why: str = ""


@dataclass(slots=True)
class CoordinatorState:
    """All that a coordinator core is.

    `pending` are records on their way to durable storage, `proposed` a phase among them, `asking`
    the processes whose incarnation is. `heeded`: the initialiser is seen to be at work, `offered`:
    it has sent everything. `former` are the last processes of names that nobody has now, `asks` the
    lives that wait for inner state, `attempts` how often a donor was named.
    """

    epoch: int
    num_shards: int
    leases: LeaseBook
    merged: list[int]
    ready: list[bool]
    now_s: float = 0.0
    phase: str = INITIAL
    proposed: str = ""
    why: str = ""
    stop_why: str = ""
    record_number: int = 0
    pending: dict[int, Record] = field(default_factory=dict)
    asking: dict[str, str] = field(default_factory=dict)
    incarnation: int = 0
    lives: dict[int, Life] = field(default_factory=dict)
    roster: Roster = field(default_factory=Roster)
    former: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    farewells: dict[int, Farewell] = field(default_factory=dict)
    trained: int = 0
    finals: dict[int, int] = field(default_factory=dict)
    initialiser: str = ""
    initialiser_life: int = 0
    heeded: bool = False
    offered: bool = False
    deadlines: dict[str, float] = field(default_factory=dict)
    lease_ends: list[tuple[float, int]] = field(default_factory=list)
    asks: dict[int, Ask] = field(default_factory=dict)
    attempts: int = 0

    def present(self, name: str) -> Life | None:
        """The life under this name that takes part."""
        member = self.roster.members.get(name)
        return None if member is None else self.lives[member.incarnation]

    def count_tokens(self, life: Life, tokens: int) -> None:
        """A life has trained so much; what is older than something already told changes nothing."""
        if tokens > life.tokens:
            self.trained += tokens - life.tokens
            life.tokens = tokens

    def was_replaced(self, name: str, process: str) -> bool:
        """Whether a newer process has taken the name of this one."""
        return _key(name, process) in self.replaced

    def apply(self, kind: str, fields: dict[str, str]) -> None:
        """Take a durable record into account."""
        _APPLY[kind](self, fields)


def knows(kind: str) -> bool:
    """Whether records of this kind can be applied."""
    return kind in _APPLY


def new_state(settings: ProtocolSettings, run: RunSettings, epoch: int = 1) -> CoordinatorState:
    """The state of a run that nobody has joined."""
    book = LeaseBook(
        run.dataset_items,
        run.lease_items,
        [Stream() for _ in range(run.num_streams)],
    )
    return CoordinatorState(epoch, run.num_shards, book, [0] * settings.P, [False] * settings.P)


def lease_fields(lease: Lease) -> dict[str, str]:
    """A grant as a record."""
    return {
        "lease": str(lease.number),
        "learner": lease.learner,
        "incarnation": str(lease.incarnation),
        "turn": str(lease.turn),
        "first": str(lease.first),
        "stop": str(lease.stop),
        "stream": str(lease.stream),
        "start": lease.start,
    }


# ---------------------------------------------------------------- records


def _begin_life(state: CoordinatorState, fields: dict[str, str]) -> None:
    name, process = fields["learner"], fields["process"]
    incarnation = int(fields["incarnation"])
    state.incarnation = max(state.incarnation, incarnation)
    if state.asking.get(name) == process:
        del state.asking[name]
    old = state.present(name)
    if old is not None and old.incarnation > incarnation:
        _remember(state.replaced, _key(name, process), incarnation)
        return
    if old is not None:
        old.ending = REPLACED
        _remember(state.replaced, _key(name, old.process), old.incarnation)
        state.roster.remove(name)
    before = state.former.pop(name, process)
    if before != process:
        _remember(state.replaced, _key(name, before), 0)
    through, strangers = [0] * len(state.merged), list(range(state.num_shards))
    state.lives[incarnation] = Life(name, process, incarnation, through, strangers)
    state.roster.admit(name, incarnation)


def _end_life(state: CoordinatorState, fields: dict[str, str]) -> None:
    name, incarnation, code = fields["learner"], int(fields["incarnation"]), fields["code"]
    life = state.lives.get(incarnation)
    if life is None:
        return
    state.count_tokens(life, int(fields["tokens"]))
    if state.roster.current(name, incarnation) is not None:
        state.roster.remove(name)
    if code != REPLACED:
        _remember(state.former, name, life.process)
    _remember(state.farewells, incarnation, Farewell(name, code), FAREWELLS)
    life.ending = code
    if code != LEFT:
        state.leases.give_back(incarnation)
        del state.lives[incarnation]


def _grant(state: CoordinatorState, fields: dict[str, str]) -> None:
    number, start = int(fields["lease"]), fields["start"]
    turn, first, stop = int(fields["turn"]), int(fields["first"]), int(fields["stop"])
    lease = Lease(
        number,
        fields["learner"],
        int(fields["incarnation"]),
        turn,
        first,
        stop,
        int(fields["stream"]),
        start,
        start,
        start,
    )
    state.leases.take_again(lease)
    kept = state.leases.held.get(number)
    if kept is not None:
        kept.durable = True


def _done(state: CoordinatorState, fields: dict[str, str]) -> None:
    state.leases.finish(int(fields["lease"]))


def _set_phase(state: CoordinatorState, fields: dict[str, str]) -> None:
    state.phase, state.why = fields["phase"], fields["why"]
    if state.proposed == state.phase:
        state.proposed = ""


_APPLY: dict[str, Callable[[CoordinatorState, dict[str, str]], None]] = {
    "incarnation": _begin_life,
    "departed": _end_life,
    "grant": _grant,
    "done": _done,
    "phase": _set_phase,
}


def _key(name: str, process: str) -> str:
    return f"{name}\n{process}"


def _remember(memory: dict[_K, _V], key: _K, value: _V, most: int = REMEMBERED) -> None:
    memory.pop(key, value)
    memory[key] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


# ---------------------------------------------------------------- settings


def _check(s: RunSettings) -> None:
    for name, text in (("run", s.run), ("layout", s.layout)):
        if not text:
            raise SettingsError(f"{name} is empty: a run needs one")
    _whole("budget_tokens", s.budget_tokens, 1)
    _whole("num_shards", s.num_shards, 1)
    _whole("leases_ahead", s.leases_ahead, 1)
    for name in ("dataset_items", "lease_items", "num_streams"):
        _whole(name, getattr(s, name), 0)
    if s.initial not in ("learner", "file"):
        raise SettingsError(f"initial = {s.initial!r} is not known: choose 'learner' or 'file'")
    for name in ("lease_s", "progress_every_s", "initialise_s", "last_round_s"):
        value = getattr(s, name)
        if not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{name} = {value!r} must be a number of seconds above 0")
    if s.dataset_items and s.num_streams:
        raise SettingsError(
            "dataset_items and num_streams are both set, but a run leases index ranges or streams: "
            "set one of them to 0"
        )
    if s.dataset_items and not s.lease_items:
        raise SettingsError(
            f"lease_items = 0 cannot cut {s.dataset_items} items into leases: set it to 1 or more"
        )
    for size in s.fragment_sizes:
        _whole("fragment_sizes", size, 1)


def check_together(settings: ProtocolSettings, run: RunSettings) -> None:
    """Refuse settings of a run that do not go with those of the protocol."""
    if run.num_shards > settings.P:
        raise SettingsError(
            f"num_shards = {run.num_shards} leaves shards without a fragment, as P = {settings.P}: "
            f"set it to {settings.P} or less"
        )
    if run.fragment_sizes and len(run.fragment_sizes) != settings.P:
        raise SettingsError(
            f"fragment_sizes names {len(run.fragment_sizes)} fragments, but P = {settings.P}: "
            "give one size for each fragment, or none"
        )


def check_restored(settings: ProtocolSettings, run: RunSettings, state: CoordinatorState) -> None:
    """Refuse to go on with a state that was made under other settings."""
    book = state.leases
    for name, now, kept in (
        ("P", settings.P, len(state.merged)),
        ("num_shards", run.num_shards, state.num_shards),
        ("dataset_items", run.dataset_items, book.items),
        ("lease_items", run.lease_items, book.size),
        ("num_streams", run.num_streams, len(book.streams)),
    ):
        if now != kept:
            raise SettingsError(
                f"{name} = {now}, but this run was begun with {kept}: "
                f"set it back to {kept}, or begin a new run"
            )


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} = {value!r} must be a whole number from {least} on")
