"""Identities that travel: learners, their lives, their cuts, and the parties of a run.

A learner keeps its name over restarts; every life gets a new *incarnation*, issued by the
coordinator and durable. A cut is named by learner, incarnation and a number that only rises.
"""

from __future__ import annotations

from dataclasses import dataclass

COORDINATOR = "coordinator"


def shard_party(index: int) -> str:
    """The name under which a shard is addressed."""
    return f"shard-{index}"


def shard_of(fragment: int, num_shards: int) -> int:
    """Which shard owns a fragment; every party computes the same."""
    return fragment % num_shards


def fragments_of(shard: int, num_shards: int, num_fragments: int) -> tuple[int, ...]:
    """The fragments a shard owns, in order."""
    return tuple(range(shard, num_fragments, num_shards))


@dataclass(frozen=True, slots=True, order=True)
class CutId:
    """One cut of one life of one learner."""

    learner: str
    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.learner}.{self.incarnation}.{self.number}"


@dataclass(frozen=True, slots=True)
class Cut:
    """A copy of a fragment at a step boundary, and what it stands for.

    `first_token` and `end_token` are positions in the learner's own token count: the displacement
    holds the work of that interval, done in `steps` steps, measured from published version `base`.
    `call` is the round it answers (0: none, a last contribution), `at_step` the learner's step.
    """

    id: CutId
    fragment: int
    base: int
    first_token: int
    end_token: int
    steps: int
    call: int
    at_step: int

    @property
    def tokens(self) -> int:
        """How many tokens of work the displacement holds."""
        return self.end_token - self.first_token


@dataclass(frozen=True, slots=True, order=True)
class TransferId:
    """One try to hand inner state from one life to another, named by their incarnations.

    `attempt` only rises for one heir, so nothing of an earlier try passes for one of this.
    """

    heir: int
    donor: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.heir}.{self.donor}.{self.attempt}"


NO_TRANSFER = TransferId(0, 0, 0)
"""Incarnations begin with 1, so this is nobody's."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The last cut of a learner that was merged into a fragment, and the version it made."""

    learner: str
    incarnation: int
    cut: int
    version: int
