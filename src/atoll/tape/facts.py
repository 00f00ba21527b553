"""What tapes say happened, party by party, as plain facts that checks can join.

Facts are what was observed and ordered, not what a core believed: versions made durable, cuts
taken, boundaries passed, messages heard. Times are never compared between parties, since each has
its own clock; order within one tape is. What lies before the first segment that was kept comes
from its state, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.effects import Part
from atoll.core.ids import Cut, CutId

LifeKey = tuple[str, int]
"""Learner and incarnation."""


@dataclass(frozen=True, slots=True)
class Durable:
    """A version of a fragment became durable; `before` was the newest until then."""

    where: str
    fragment: int
    version: int
    before: int
    digest: str


@dataclass(frozen=True, slots=True)
class MergedCut:
    """A cut went into a durable version. `cut` is known where the order for it was on tape."""

    where: str
    id: CutId
    fragment: int
    version: int
    cut: Cut | None = None


@dataclass(frozen=True, slots=True)
class Ordered:
    """A merge was ordered; `strangers` are its parts whose life was not the present one."""

    where: str
    fragment: int
    version: int
    parts: tuple[Part, ...]
    strangers: tuple[CutId, ...]


@dataclass(frozen=True, slots=True)
class Called:
    """A round was called because it was due; `steps` is what each life had reported by then."""

    where: str
    fragment: int
    number: int
    epoch: int
    version: int
    """Of the fragment, when it was called."""
    steps: dict[LifeKey, int]


@dataclass(frozen=True, slots=True)
class Told:
    """A version was announced to learners when `durable` was the newest durable one."""

    where: str
    fragment: int
    version: int
    digest: str
    durable: int


@dataclass(slots=True)
class SyncerFacts:
    """What the tapes of shards and coordinator say."""

    durable: list[Durable] = field(default_factory=list)
    newest: dict[int, int] = field(default_factory=dict)
    oldest: dict[int, int] = field(default_factory=dict)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    two_digests: list[str] = field(default_factory=list)
    lost_versions: list[str] = field(default_factory=list)
    merged: list[MergedCut] = field(default_factory=list)
    orders: list[Ordered] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    sent_calls: set[tuple[str, int, int]] = field(default_factory=set)
    sent_drops: set[tuple[CutId, int]] = field(default_factory=set)
    epochs: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    """Per party in order: the epoch, and whether a new process took over with it."""
    admitted: set[str] = field(default_factory=set)
    owned: set[int] = field(default_factory=set)
    """Fragments whose shard has a tape."""
    unfinished: set[int] = field(default_factory=set)
    """Fragments whose shard went on after the end of its tape, or may have."""
    gaps: set[int] = field(default_factory=set)
    """Fragments whose shard has a process without a proper end on its tape."""

    def note_digest(self, where: str, fragment: int, version: int, digest: str) -> None:
        """A version has one digest, whoever names it."""
        known = self.digests.setdefault((fragment, version), digest)
        if known != digest:
            text = f"version {version} of fragment {fragment} is {digest} and {known}"
            self.two_digests.append(f"{where}: {text}")


@dataclass(frozen=True, slots=True)
class Heard:
    """A learner was told of a version."""

    where: str
    fragment: int
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A boundary with cuts or installs, and how many installs were allowed there."""

    where: str
    cuts: int
    installs: int
    limit: int


@dataclass(frozen=True, slots=True)
class Act:
    """Something that moved the ledger of a fragment, at `tokens` of the life's own count.

    `kind` is "cut" (number), "merged" (number), "set" (all work was let go), "begun" (the life or
    the tape begins here, with `number` as the origin) or "ended".
    """

    where: str
    kind: str
    number: int
    tokens: int


@dataclass(slots=True)
class LifeFacts:
    """One life of a learner, as far as its tape goes.

    `cuts` are known with their counters, by fragment and number, `taken` may wait for that: while
    no shard can be reached a cut is taken and nothing is said of it.
    """

    learner: str
    incarnation: int
    cuts: dict[tuple[int, int], Cut] = field(default_factory=dict)
    taken: set[tuple[int, int]] = field(default_factory=set)
    two_cuts: list[str] = field(default_factory=list)
    acts: dict[int, list[Act]] = field(default_factory=dict)
    fates: dict[tuple[int, int], str] = field(default_factory=dict)
    last_cut: int = 0
    tokens: int = 0
    from_begin: bool = True
    to_end: bool = False


@dataclass(slots=True)
class LearnerFacts:
    """What the tapes of learners say."""

    lives: dict[LifeKey, LifeFacts] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    heard_calls: list[tuple[str, str, int, int]] = field(default_factory=list)
    heard_drops: list[tuple[str, CutId, int]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    epochs: dict[str, list[int]] = field(default_factory=dict)
    """Per process and party of the syncer, the epochs that were accepted, in order."""
    ledgers: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
