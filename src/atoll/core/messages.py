"""What the parties say to each other: frozen, typed, without bytes of tensors.

A message is an event for the party that receives it. Messages of the syncer carry its epoch, and
a learner refuses a lower one; messages of a learner carry its incarnation, and the syncer refuses
any but the current one. Tensors travel as bulk, beside this, and are named by cut or version.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.ids import Cut, CutId, Mark, TransferId

# ---------------------------------------------------------------- learner -> coordinator


@dataclass(frozen=True, slots=True)
class Hello:
    """A learner asks to take part. `incarnation` > 0 asks to resume that session.

    `process` tells two processes under one name apart; `layout` is the fingerprint of fragments.
    """

    learner: str
    process: str
    layout: str
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class WantData:
    """A learner asks for leases until it holds `ahead` that it has not begun."""

    learner: str
    incarnation: int
    ahead: int


@dataclass(frozen=True, slots=True)
class DataPosition:
    """At `tokens` of its own count the learner had consumed `lease` up to `position`.

    `position` is the next index for an index range, and opaque for a stream.
    """

    learner: str
    incarnation: int
    tokens: int
    lease: int
    position: str
    finished: bool


@dataclass(frozen=True, slots=True)
class InitialOffered:
    """The named initialiser has sent every fragment of version 0."""

    learner: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class AskInner:
    """A learner that joins asks for a peer's inner optimizer state, and says how far it is.

    Said again with every beat. `kind` names its optimizers, `left_s` is how long it still waits;
    the first `taken` fragments of try `attempt` are in its hands (0: of none).
    """

    learner: str
    incarnation: int
    kind: str
    left_s: float
    attempt: int
    taken: int


@dataclass(frozen=True, slots=True)
class InnerOver:
    """A try to hand over inner state is over, says the donor or the heir.

    `code` is "given_up" when the heir waits no longer; anything else asks for another donor.
    """

    learner: str
    incarnation: int
    transfer: TransferId
    code: str
    why: str


# ------------------------------------------------------- learner -> coordinator and all shards


@dataclass(frozen=True, slots=True)
class Report:
    """After every step: where a learner stands. Small, never waited for."""

    learner: str
    incarnation: int
    step: int
    tokens: int
    pace_s: float


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life that also repairs lost messages.

    `held` is the installed version of every fragment of the run (-1: none), `outstanding` the cuts
    that were sent and whose fate is unknown, `fetch_s` its smoothed time from announcement to
    fetched, `busy` what the loop said it is doing besides training ("" for nothing).
    """

    learner: str
    incarnation: int
    step_age_s: float
    fetch_s: float
    held: tuple[int, ...]
    outstanding: tuple[Cut, ...]
    busy: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    """A learner goes on purpose; its handed-in cuts stay valid."""

    learner: str
    incarnation: int
    why: str


# ---------------------------------------------------------------- learner -> shard


@dataclass(frozen=True, slots=True)
class Announce:
    """A cut was taken and its upload is about to begin."""

    cut: Cut


# ---------------------------------------------------------------- coordinator -> learner


@dataclass(frozen=True, slots=True)
class Welcome:
    """The learner takes part under this incarnation. `resumed`: the session went on.

    `process` is that of the hello it answers: another process under the name passes it over.
    """

    epoch: int
    learner: str
    incarnation: int
    resumed: bool
    num_shards: int
    ready: bool
    process: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The learner does not take part, and why. `final`: trying again cannot help.

    `process` is that of the hello it answers: another process under the name passes it over.
    """

    epoch: int
    learner: str
    code: str
    sentence: str
    final: bool
    process: str = ""


@dataclass(frozen=True, slots=True)
class Initialise:
    """The learner is to provide version 0 of every fragment from its own parameters."""

    epoch: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Begin:
    """Version 0 of all fragments is durable: learners install it and train."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease on data: `first <= index < stop` of pass `turn`, or stream `stream` at `position`."""

    epoch: int
    lease: int
    turn: int
    first: int
    stop: int
    stream: int
    position: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Trained tokens of the run, `yours` of them from this life of the learner."""

    epoch: int
    trained: int
    yours: int
    budget: int


@dataclass(frozen=True, slots=True)
class Finishing:
    """The budget is reached: one last round of every fragment is under way."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over; its published fragments are final."""

    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A newer process joined under this learner's name; this one must not come back by itself.

    `incarnation` is that of the newer process: whoever has a lower one is meant.
    """

    epoch: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class LendInner:
    """The learner is to copy the inner state of fragment `index` for an heir, and to send it."""

    epoch: int
    transfer: TransferId
    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class InnerHere:
    """Inner state of fragment `index` has come from learner `donor` and is to be fetched."""

    epoch: int
    transfer: TransferId
    donor: str
    index: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class InnerNone:
    """No peer gives its inner state, and why. `first`: nothing has been merged in this run."""

    epoch: int
    code: str
    sentence: str


# ---------------------------------------------------------------- shard -> learner


@dataclass(frozen=True, slots=True)
class Call:
    """Cut `fragment` at the next boundary, for round `number`; tau is the overlap in steps."""

    epoch: int
    fragment: int
    number: int
    tau: int


@dataclass(frozen=True, slots=True)
class Published:
    """Version `version` of a fragment is durable, and whose cuts have been merged so far."""

    epoch: int
    fragment: int
    version: int
    digest: str
    merged_by: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cut will not be merged, and why, in the syncer's words."""

    epoch: int
    cut: CutId
    fragment: int
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The shard does not have the bytes of this cut and would use them: upload again."""

    epoch: int
    cut: CutId
    fragment: int


# ---------------------------------------------------------------- coordinator -> shard


@dataclass(frozen=True, slots=True)
class Admitted:
    """A learner takes part under this incarnation; earlier ones are void."""

    learner: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Departed:
    """A life of a learner is over. `left`: on purpose, so what it handed in stays valid."""

    learner: str
    incarnation: int
    code: str
    left: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """The budget is reached: one last round of every fragment, each within `limit_s`."""

    limit_s: float


# ---------------------------------------------------------------- shard -> coordinator


@dataclass(frozen=True, slots=True)
class FragmentReady:
    """Version 0 of a fragment is durable."""

    fragment: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Work of each (learner, incarnation) up to a token position has its fate in this fragment."""

    fragment: int
    version: int
    merged_tokens: int
    through: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class FragmentFinal:
    """A fragment has had its last round; this is its final version."""

    fragment: int
    version: int
