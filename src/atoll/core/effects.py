"""What a core wants done: frozen, each with the reason for it.

An effect is carried out by the driver, or fails and comes back as an event. Effects compare by
their fields and the reason's code, so a replay can be held against a tape.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.ids import Cut, CutId, Mark, TransferId
from atoll.core.messages import Granted
from atoll.core.reasons import Reason

# ---------------------------------------------------------------- every core


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver a message to parties. Lost when they are not connected; beats repair that."""

    to: tuple[str, ...]
    message: object
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refuse:
    """An event was not taken into account and changed nothing."""

    who: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person would want to read; said once, when it changes."""

    reason: Reason


# ---------------------------------------------------------------- syncer side


@dataclass(frozen=True, slots=True)
class Part:
    """One contribution to a merge: its weight, and the factor its displacement is scaled by."""

    cut: Cut
    weight: float
    scale: float


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge these contributions into `fragment`, make the record durable, report `Merged`.

    The fields are the record's decisions: with the bytes of the merged displacement they are all
    that a restart needs. `parts` are in order of learner name.
    """

    fragment: int
    version: int
    round: int
    parts: tuple[Part, ...]
    marks: tuple[Mark, ...]
    through: tuple[tuple[str, int, int], ...]
    merged_tokens: int
    thin: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Discard:
    """The bytes of this contribution are not needed any more."""

    cut: CutId
    fragment: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this record of the coordinator durable, then report `Persisted(number)`."""

    number: int
    kind: str
    fields: tuple[tuple[str, str], ...]
    reason: Reason


@dataclass(frozen=True, slots=True)
class Close:
    """Close a learner's connection to this party."""

    learner: str
    incarnation: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class ForgetInner:
    """Inner state of fragments below `upto` that came in this try is not needed any more."""

    transfer: TransferId
    upto: int
    reason: Reason


# ---------------------------------------------------------------- learner side


@dataclass(frozen=True, slots=True)
class CutOrder:
    """At the next boundary copy this fragment, as cut `id`, after installing what is ordered.

    A fragment whose ordered install cannot be carried out there is not cut there either.
    """

    fragment: int
    id: CutId
    reason: Reason


@dataclass(frozen=True, slots=True)
class InstallOrder:
    """At the next boundary install a fetched version.

    `rule`: "set" (theta <- published), "keep" (theta <- published + theta - base - accepted) or
    "alpha" (theta <- alpha theta + (1 - alpha) published).
    `accepted` is the cut whose displacement the version contains, -1 for none, and `scale` the
    factor that the merge applied to it: what was scaled away stays with the learner.
    """

    fragment: int
    version: int
    rule: str
    accepted: int
    scale: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The orders for this fragment that were not carried out yet are void."""

    fragment: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Upload:
    """Encode this cut's displacement and send it."""

    cut: Cut
    reason: Reason


@dataclass(frozen=True, slots=True)
class Forget:
    """The copies kept for this cut are not needed any more."""

    cut: CutId
    fragment: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get `version` (or a later one) of a fragment; `full`: not as increments."""

    fragment: int
    version: int
    digest: str
    full: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class UploadInitial:
    """Send every fragment of the parameters as they are, as version 0."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Connect:
    """Open (or open again) the control connection to a party."""

    party: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class UseLease:
    """Data to train on, beyond what the loop already holds."""

    lease: Granted
    reason: Reason


@dataclass(frozen=True, slots=True)
class CopyInner:
    """At the next boundary copy the inner state of fragment `index`, then send it.

    An order for another copy that was not carried out is void.
    """

    transfer: TransferId
    index: int
    kind: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class FetchInner:
    """Get the inner state of a fragment that a donor has sent."""

    transfer: TransferId
    index: int
    size_bytes: int
    digest: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Inherit:
    """It is settled whose inner state is taken: all of `transfer`, or nobody's (donor "")."""

    transfer: TransferId
    donor: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Joined:
    """All fragments of a published version are installed: `join()` may return."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Over:
    """The learner takes no further part. `failed`: not as intended."""

    failed: bool
    reason: Reason


Effect = (
    Send
    | Refuse
    | Note
    | Merge
    | Discard
    | Persist
    | Close
    | ForgetInner
    | CutOrder
    | InstallOrder
    | Withdraw
    | Upload
    | Forget
    | Fetch
    | UploadInitial
    | Connect
    | UseLease
    | CopyInner
    | FetchInner
    | Inherit
    | Joined
    | Over
)
