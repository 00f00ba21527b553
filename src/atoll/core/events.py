"""What a driver observes and tells a core, beside the messages of other parties.

Frozen and complete: whatever a core may take into account stands in the event or in `now_s`.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.ids import Cut, CutId, Mark, TransferId

# ---------------------------------------------------------------- every core


@dataclass(frozen=True, slots=True)
class Tick:
    """The one timer fired: `next_deadline_s()` has been reached."""


# ---------------------------------------------------------------- syncer side


@dataclass(frozen=True, slots=True)
class Connected:
    """A learner's control connection to this party stands."""

    learner: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A learner's control connection to this party is gone."""

    learner: str
    incarnation: int
    why: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The party was restored from durable state; connections and unmerged bytes are gone."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """The bytes of a cut are here. `defect` names what is wrong with them ("" for nothing)."""

    cut: Cut
    defect: str = ""


@dataclass(frozen=True, slots=True)
class InitialStored:
    """Version 0 of a fragment was received and is durable."""

    fragment: int
    digest: str


@dataclass(frozen=True, slots=True)
class Merged:
    """The merge asked for was computed and is durable."""

    fragment: int
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class MergeFailed:
    """The merge asked for did not become durable. `bad` names contributions that spoiled it."""

    fragment: int
    version: int
    code: str
    detail: str
    bad: tuple[CutId, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeRecovered:
    """A durable merge read back from the log after a restart, in log order."""

    fragment: int
    version: int
    digest: str
    round: int
    marks: tuple[Mark, ...]
    through: tuple[tuple[str, int, int], ...]
    merged_tokens: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The coordinator's record `number` is durable."""

    number: int


@dataclass(frozen=True, slots=True)
class RecordRecovered:
    """A durable record of the coordinator read back after a restart, in order of number."""

    number: int
    kind: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class InnerArrived:
    """Inner state of fragment `index` is here, complete, on its way from a donor to its heir."""

    transfer: TransferId
    index: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A person or a signal asks the run to end now, with last rounds."""

    why: str


# ---------------------------------------------------------------- learner side


@dataclass(frozen=True, slots=True)
class JoinAsked:
    """The training process asks to take part."""

    process: str


@dataclass(frozen=True, slots=True)
class RestoreAsked:
    """Before `JoinAsked`: joining waits at most `limit_s` for inner state of this kind."""

    kind: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class InnerFetched:
    """Inner state of a fragment is here, checked, and fits."""

    transfer: TransferId
    index: int


@dataclass(frozen=True, slots=True)
class InnerFetchFailed:
    """Inner state of a fragment could not be had. `unfit`: it came, and cannot be used."""

    transfer: TransferId
    index: int
    why: str
    unfit: bool


@dataclass(frozen=True, slots=True)
class InnerSent:
    """The syncer has this learner's inner state of a fragment."""

    transfer: TransferId
    index: int


@dataclass(frozen=True, slots=True)
class InnerNotSent:
    """This learner's inner state was not handed over. `code` "unwanted": nobody asks any more."""

    transfer: TransferId
    index: int
    code: str
    why: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The control connection to a party of the syncer stands."""

    party: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The control connection to a party of the syncer is gone."""

    party: str
    why: str


@dataclass(frozen=True, slots=True)
class Boundary:
    """The training thread is between two steps: its counters, and what it carried out there.

    `cuts` and `installs` name the orders carried out at this boundary, by fragment; a cut stands
    for the parameters after `step`. `pace_s` is the smoothed duration of a step.
    """

    step: int
    tokens: int
    pace_s: float
    cuts: tuple[int, ...] = ()
    installs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BusySince:
    """The loop said that it is doing something else (evaluation, saving)."""

    what: str


@dataclass(frozen=True, slots=True)
class BusyOver:
    """The loop is back."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The syncer has the bytes of a cut."""

    cut: CutId


@dataclass(frozen=True, slots=True)
class UploadFailed:
    """The upload of a cut broke off. `final`: the syncer does not want it any more."""

    cut: CutId
    why: str
    final: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """A published version is here, decoded, and its digest is right."""

    fragment: int
    version: int


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """A published version could not be had. `full`: try a full copy next."""

    fragment: int
    version: int
    why: str
    full: bool


@dataclass(frozen=True, slots=True)
class InitialUploaded:
    """Every fragment of version 0 was sent by this learner."""


@dataclass(frozen=True, slots=True)
class LeaveAsked:
    """The loop is over: hand in what is there within `limit_s`, then go."""

    why: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class DataTaken:
    """The loop acknowledged data by a step: lease consumed up to `position`."""

    lease: int
    position: str
    finished: bool


@dataclass(frozen=True, slots=True)
class DataLow:
    """The loop holds fewer than `ahead` leases that it has not begun."""

    ahead: int
