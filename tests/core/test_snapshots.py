"""Snapshots: a core restored at any event goes on exactly as the one it was taken from.

Whole runs with faults are simulated and recorded; then any core of them is stopped at any event,
copied, and fed the rest. `test_machine_joined.py` does the same in the middle of random walks.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.core.coordinator import CoordinatorCore, RunSettings
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

PROTOCOL = ProtocolSettings(M=3, P=4, H=4, beat_s=1.0, silence_s=4.0)
RUN = RunSettings("run", "layout", 30_000, num_shards=2, dataset_items=500, lease_items=20)
PARTIES = ("coordinator", "shard-0", "shard-1", "a", "b")

Event = tuple[float, object]


@functools.cache
def streams(seed: int) -> dict[str, list[Event]]:
    """What reached each party that lived through the whole run, to its end."""
    link = Link(0.05, jitter_s=0.1, loss=0.05, duplicate=0.05, reorder=0.1, bulk_s=0.6)
    islands = [Island(name, 0.5, 0.2, link) for name in ("a", "b", "c")]
    world = World(PROTOCOL, RUN, islands, Conditions(seed=seed, merge_s=0.2))
    kept: dict[str, list[Event]] = {party: [] for party in PARTIES}

    def record(party: str, now_s: float, event: object, effects: list[Any]) -> None:
        if party in kept:
            kept[party].append((now_s, event))

    world.recorders.append(record)
    world.run_for(12.0)
    world.learners["a"].cut_link()
    world.learners["b"].corrupt_next = "non_finite"
    world.run_for(3.0)
    world.learners["a"].mend_link()
    world.learners["c"].kill()
    world.run_for(5.0)
    world.learners["c"].start()
    world.shards[0].disk_full = True
    world.run_for(5.0)
    world.shards[0].disk_full = False
    assert world.run_until(lambda: world.coordinator.core.state.phase == "ended", 300.0)
    world.run_for(2.0)
    return kept


def fresh(party: str) -> Any:
    if party == "coordinator":
        return CoordinatorCore(PROTOCOL, RUN)
    if party.startswith("shard"):
        return ShardCore(PROTOCOL, int(party[-1]), RUN.num_shards)
    return LearnerCore(PROTOCOL, party, RUN.layout)


def restored(party: str, state: Any) -> Any:
    if party == "coordinator":
        return CoordinatorCore.restore(PROTOCOL, RUN, state)
    if party.startswith("shard"):
        return ShardCore.restore(PROTOCOL, int(party[-1]), RUN.num_shards, state)
    return LearnerCore.restore(PROTOCOL, RUN.layout, state)


def told(core: Any, events: list[Event]) -> list[str]:
    """Effects and deadline after each event, as text: sentences of reasons included."""
    return [f"{core.handle(now_s, event)} {core.next_deadline_s()}" for now_s, event in events]


@pytest.mark.parametrize("party", PARTIES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2), at=st.integers(0, 10_000))
def test_a_restored_core_goes_on_as_the_original(party: str, seed: int, at: int) -> None:
    events = streams(seed)[party]
    at %= len(events)
    original = fresh(party)
    told(original, events[:at])
    state = original.snapshot()
    again = restored(party, state)
    assert again.snapshot() == state, "restoring loses nothing"
    assert told(again, events[at:]) == told(original, events[at:])
    assert again.snapshot() == original.snapshot()


@pytest.mark.parametrize("party", PARTIES)
def test_a_snapshot_is_independent_of_what_happens_to_its_core(party: str) -> None:
    events = streams(0)[party]
    core = fresh(party)
    told(core, events[: len(events) // 2])
    state = core.snapshot()
    kept = repr(state)
    again = restored(party, state)
    told(core, events[len(events) // 2 :])
    told(again, events[len(events) // 2 :])
    assert repr(state) == kept, "the snapshot changed with a core"


@pytest.mark.parametrize("party", PARTIES)
def test_looking_at_a_core_changes_nothing(party: str) -> None:
    """Deadlines, snapshots and the status may be asked for at any time."""
    quiet, looked_at = fresh(party), fresh(party)
    for now_s, event in streams(1)[party]:
        quiet.handle(now_s, event)
        looked_at.handle(now_s, event)
        before = repr(looked_at.state)
        looked_at.next_deadline_s()
        if party == "coordinator":
            looked_at.status()
        assert repr(looked_at.state) == before
    assert quiet.snapshot() == looked_at.snapshot()
