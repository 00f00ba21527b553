"""Swarms of fixed seeds: those that once failed, some more, and proof that a bug is found.

`python tests/swarm.py --seeds 1000` looks for new ones; a seed that fails joins the list here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from atoll.core import boundaries, ledger, rounds, schedule, shard_desk
from atoll.core.admission import ADMISSIBLE
from atoll.core.effects import Merge
from atoll.simulator import syncer_node
from atoll.simulator.checkers import Violation, Watch
from atoll.simulator.swarm import run_seed

FAILED_ONCE = (
    *(5, 9, 20, 61, 62, 64, 80, 88, 94, 103, 140, 142, 144, 146, 152, 158, 164, 210),
    *(252, 264, 1013, 6294, 8551),
)
OTHERS = tuple(range(2000, 2020))


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_seed_that_once_failed_does_not(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.failure == "", f"see it again: python tests/swarm.py --first {seed} --seeds 1"
    assert outcome.merges > 0


@pytest.mark.parametrize("seed", OTHERS)
def test_a_seed_among_many(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.failure == "", f"see it again: python tests/swarm.py --first {seed} --seeds 1"
    assert outcome.merges > 0


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert run_seed(64) == run_seed(64)
    assert run_seed(64) != replace(run_seed(65), seed=64)


def test_every_kind_of_fault_strikes() -> None:
    kinds: dict[str, int] = {}
    for seed in range(2000, 2005):
        for kind, count in run_seed(seed, faults_s=240.0).faults.items():
            kinds[kind] = kinds.get(kind, 0) + count
    assert sorted(kinds) == [
        "cut_link",
        "disk_full",
        "freeze_learner",
        "garbage",
        "kill_coordinator",
        "kill_learner",
        "kill_shard",
        "kill_syncer",
        "leave",
        "stall_learner",
    ]


# ---------------------------------------------------------------- planted bugs are found


def found_by(num_seeds: int = 12) -> Iterator[str]:
    """What a small swarm complains about."""
    for seed in range(num_seeds):
        failure = run_seed(seed, faults_s=120.0).failure
        if failure:
            yield failure


def first_failure(num_seeds: int = 12) -> str:
    return next(found_by(num_seeds), "")


Plant = Callable[[pytest.MonkeyPatch], None]


def admit_everything(patch: pytest.MonkeyPatch) -> None:
    """Double work, old lives and stale bases pass."""
    patch.setattr(shard_desk, "refusal", lambda *_: ADMISSIBLE)


def ledger_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """A dropped interval loses a token."""
    drop = ledger.FragmentLedger._drop

    def short(self: ledger.FragmentLedger, code: str, tokens: int) -> None:
        drop(self, code, max(0, tokens - 1))

    patch.setattr(ledger.FragmentLedger, "_drop", short)


def publish_before_durable(patch: pytest.MonkeyPatch) -> None:
    """The shard is told that a merge is durable before it is."""
    merge = syncer_node.ShardNode._merge

    def hasty(self: syncer_node.ShardNode, order: Merge) -> None:
        self.later(0.0, syncer_node.ev.Merged(order.fragment, order.version, "early"))
        merge(self, order)

    patch.setattr(syncer_node.ShardNode, "_merge", hasty)


def forget_the_log(patch: pytest.MonkeyPatch) -> None:
    """A restart reads the snapshot and not the log."""

    def start(self: syncer_node.ShardNode) -> None:
        self.log = []
        begin(self)

    begin = syncer_node.ShardNode.start
    patch.setattr(syncer_node.ShardNode, "start", start)


def never_call_again(patch: pytest.MonkeyPatch) -> None:
    """Nothing is due any more after a while: safe, and without progress."""
    pick = schedule.Schedule.pick

    def tired(self: schedule.Schedule, quorum: int, blocked: list[bool]) -> int:
        return -1 if self.num_calls > 5 else pick(self, quorum, blocked)

    patch.setattr(schedule.Schedule, "pick", tired)


def forget_the_mark(patch: pytest.MonkeyPatch) -> None:
    """A learner takes no merged work out of its counters."""

    def receipt(self: Any, holding: Any) -> Any:
        order = boundaries.InstallOrdered(holding.fetched)
        if holding.base < 0:
            order.rule, order.code = "set", "joined"
        return order

    patch.setattr(boundaries.Boundaries, "_receipt", receipt)


def merge_below_k(patch: pytest.MonkeyPatch) -> None:
    """A round that found nobody is closed all the same."""
    patch.setattr(rounds, "ABANDON", "nothing is given up")


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (admit_everything, "merged|counted once|overlaps"),
        (ledger_off_by_one, "ledger of fragment"),
        (publish_before_durable, "durable|two digests|went from"),
        (forget_the_log, "came back at|went from"),
        (never_call_again, "after the faults"),
        (forget_the_mark, "after the faults"),
        (merge_below_k, "a merge of nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_bug_is_found(plant: Plant, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    failure = first_failure()
    assert failure, "nobody noticed"
    assert any(each in failure for each in word.split("|")), failure


# ---------------------------------------------------------------- the checkers themselves


def test_checkers_refuse_double_work_gaps_of_versions_and_what_is_not_durable() -> None:
    from atoll.core.ids import Cut, CutId
    from atoll.core.messages import Published

    watch = Watch()
    watch.durable(0, 0)
    watch.durable(0, 1)
    with pytest.raises(Violation, match="from version 1 to 3"):
        watch.durable(0, 3)
    watch.seen(Published(1, 0, 1, "x", ()))
    with pytest.raises(Violation, match="2 was seen, 1 is durable"):
        watch.seen(Published(1, 0, 2, "x", ()))
    with pytest.raises(Violation, match="two digests"):
        watch.seen(Published(1, 0, 1, "y", ()))
    cut = Cut(CutId("a", 1, 1), 0, 0, 0, 400, 4, 1, 4)
    watch.merged(cut, 1)
    with pytest.raises(Violation, match="and again in 2"):
        watch.merged(cut, 2)
    with pytest.raises(Violation, match="overlaps work up to 400"):
        watch.merged(replace(cut, id=CutId("a", 1, 2), first_token=300, end_token=500), 2)
    watch.merged(replace(cut, id=CutId("a", 2, 1)), 2)
