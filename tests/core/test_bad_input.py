"""Absurd input: whatever somebody says, no core raises, and what it refuses changes nothing.

Messages and events are well typed, as the wire makes them, and beyond that anything: wrong learner,
life, epoch or fragment, numbers below zero and beyond measure, contradictions, strange names. They
meet every core in every phase of a run. Left out is what a driver reads back from its own durable
state after a restart (`Restarted`, `RecordRecovered`, `MergeRecovered`): there the cores assert.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import CoordinatorCore, RunSettings
from atoll.core.ids import Cut, CutId, Mark
from atoll.core.invariants import check_learner, check_shard
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

PROTOCOL = ProtocolSettings(M=3, P=4, H=4, K=2, beat_s=1.0, silence_s=4.0, unmerged="carry")
RUN = RunSettings("run", "layout", 20_000, num_shards=2, dataset_items=500, lease_items=20)
NUM_EXAMPLES = int(os.environ.get("ATOLL_BAD_INPUTS", "50"))
TRUSTED = (ev.Restarted, ev.RecordRecovered, ev.MergeRecovered)

Core = ShardCore | CoordinatorCore | LearnerCore

# ---------------------------------------------------------------- cores in every phase


def at(world: World) -> list[Core]:
    return [world.shards[0].core, world.coordinator.core, world.learners["b"].core]


@functools.cache
def scenes() -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """States of a shard, the coordinator and a learner at moments of a run, by name."""
    link = Link(delay_s=0.05, jitter_s=0.05, bulk_s=0.7)
    islands = [Island(name, 0.5, 0.1, link) for name in ("a", "b", "c")]
    world = World(PROTOCOL, RUN, islands, Conditions(seed=5, merge_s=0.2))
    found = [("nobody is there", [core.snapshot() for core in at(world)])]
    for name, seconds in (("joining", 0.12), ("welcome", 0.1), ("version 0 comes", 0.45)):
        world.run_for(seconds)
        found.append((name, [core.snapshot() for core in at(world)]))
    world.run_for(10.0)
    for step in range(6):
        world.run_for(0.37)
        found.append((f"training {step}", [core.snapshot() for core in at(world)]))
    world.learners["b"].cut_link()
    world.run_for(1.3)
    found.append(("the link is cut", [core.snapshot() for core in at(world)]))
    world.learners["b"].mend_link()
    world.kill_syncer()
    world.run_for(1.0)
    world.start_syncer()
    found.append(("the syncer is back", [core.snapshot() for core in at(world)]))
    world.run_for(8.0)
    world.learners["b"].core.handle(world.clock.now_s, ev.LeaveAsked("the loop is over", 5.0))
    found.append(("leaving", [core.snapshot() for core in at(world)]))
    world.run_until(lambda: world.coordinator.core.state.phase == "finishing", 200.0)
    found.append(("last rounds", [core.snapshot() for core in at(world)]))
    world.run_until(lambda: world.coordinator.core.state.phase == "ended", 60.0)
    world.run_for(1.0)
    found.append(("ended", [core.snapshot() for core in at(world)]))
    return tuple((name, tuple(states)) for name, states in found)


SHARD, COORDINATOR, LEARNER = 0, 1, 2


def core_at(scene: int, kind: int) -> Core:
    state = scenes()[scene][1][kind]
    if kind == SHARD:
        return ShardCore.restore(PROTOCOL, 0, 2, state)
    if kind == COORDINATOR:
        return CoordinatorCore.restore(PROTOCOL, RUN, state)
    return LearnerCore.restore(PROTOCOL, RUN.layout, state)


def test_the_scenes_are_what_they_are_called() -> None:
    by_name = dict(scenes())
    assert by_name["joining"][LEARNER].phase == "joining"
    assert by_name["training 0"][LEARNER].phase == "training"
    assert any(
        f.round is not None for n in range(6) for f in by_name[f"training {n}"][SHARD].fragments
    )
    assert any(
        f.merge is not None for n in range(6) for f in by_name[f"training {n}"][SHARD].fragments
    )
    assert any(
        h.ledger.outstanding for n in range(6) for h in by_name[f"training {n}"][LEARNER].holdings
    )
    assert by_name["the syncer is back"][SHARD].epoch == 2
    assert by_name["leaving"][LEARNER].phase == "leaving"
    assert by_name["last rounds"][COORDINATOR].phase == "finishing"
    assert by_name["ended"][COORDINATOR].phase == "ended"


# ---------------------------------------------------------------- anything well typed

WHOLE = [0, 1, 2, 3, 4, 5, 17, 100, 101, 300, -1, -5, 10**9, 2**53, 2**62, 2**63, 10**30, 10**400]
NAMES = [
    "a",
    "b",
    "c",
    "",
    "d",
    "coordinator",
    "shard-0",
    "shard-9",
    "b\n",
    "é" * 300,
    "\x00",
    "%s{0}",
]
REAL = [0.0, 0.5, 1.0, -1.0, 1e-300, 1e308, -1e308, math.inf, -math.inf, math.nan]
TEXTS = ["", "layout", "b#1", "b#2", "0", "20", "-3", "x" * 1000, "é", "\n", "٣", "1e5", "nan"]

whole = st.one_of(st.integers(-2, 6), st.sampled_from(WHOLE), st.integers())
real = st.one_of(st.sampled_from(REAL), st.floats())
name = st.sampled_from(NAMES)
text = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NAMES))
cut_id = st.builds(CutId, name, whole, whole)
cut = st.builds(
    Cut,
    id=cut_id,
    fragment=whole,
    base=whole,
    first_token=whole,
    end_token=whole,
    steps=whole,
    call=whole,
    at_step=whole,
)
mark = st.builds(Mark, name, whole, whole, whole)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: whole,
    float: real,
    str: text,
    bool: st.booleans(),
    Cut: cut,
    CutId: cut_id,
    Mark: mark,
}


def of_type(wanted: Any) -> st.SearchStrategy[Any]:
    if wanted in BY_TYPE:
        return BY_TYPE[wanted]
    arguments = typing.get_args(wanted)
    assert typing.get_origin(wanted) is tuple, wanted
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        few = st.lists(of_type(arguments[0]), max_size=6).map(tuple)
        many = of_type(arguments[0]).map(lambda each: (each,) * 5000)
        return st.one_of(
            few, st.lists(of_type(arguments[0]), min_size=4, max_size=4).map(tuple), many
        )
    return st.tuples(*(of_type(each) for each in arguments))


def fields_of(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def any_of(kind: type) -> st.SearchStrategy[Any]:
    parts = {
        field: name if field in ("learner", "party") else of_type(wanted)
        for field, wanted in fields_of(kind).items()
    }
    return st.builds(kind, **parts)


def kinds_in(module: types.ModuleType) -> list[type]:
    own = [each for each in vars(module).values() if isinstance(each, type)]
    return [each for each in own if each.__module__ == module.__name__]


KINDS = [kind for kind in kinds_in(ev) + kinds_in(msg) if kind not in TRUSTED]
absurd = st.one_of([any_of(kind) for kind in KINDS])
scene = st.integers(0, len(scenes()) - 1)


def near(core: Core, event: Any, draw: Callable[[Any], Any]) -> Any:
    """The same event with some of its fields right, so that it gets past the first doors."""
    right = right_values(core)
    changes = {}
    for field in fields_of(type(event)):
        if field in right and draw(st.integers(0, 3)):
            changes[field] = draw(st.sampled_from(right[field]))
    return dataclasses.replace(event, **changes)


def right_values(core: Core) -> dict[str, list[Any]]:
    state: Any = core.state
    values: dict[str, list[Any]] = {"learner": ["b"], "fragment": [0, 1, 2], "held": [(0, 1, 2, 3)]}
    values["party"] = ["coordinator", "shard-0", "shard-1"]
    values["process"] = ["b#1"]
    if isinstance(core, LearnerCore):
        cuts = [cut for h in state.holdings for cut in h.ledger.outstanding]
        values |= {"incarnation": [state.incarnation], "epoch": [*state.epochs.values()] or [1]}
        values |= {
            "step": [state.step, state.step + 1],
            "tokens": [state.position, state.position + 100],
        }
        if cuts:
            values["cut"] = [each.id for each in cuts]
            values["fragment"] = [each.fragment for each in cuts]
        marks = [Mark("b", state.incarnation, each.id.number, 7) for each in cuts]
        values["merged_by"] = [tuple(marks)]
        values["version"] = [h.latest + 1 for h in state.holdings]
        values["cuts"] = [tuple(h.number for h in state.holdings if h.cut)]
        values["installs"] = [tuple(h.number for h in state.holdings if h.install)]
        return values
    members = state.roster.members
    lives = [member.incarnation for member in members.values()]
    values["incarnation"] = [members["b"].incarnation] if "b" in members else [*lives, 1]
    if isinstance(core, ShardCore):
        pending = [f.merge for f in state.fragments if f.merge is not None]
        if pending:
            values["version"] = [pending[0].version]
            values["bad"] = [(pending[0].parts[0].cut.id,)]
        here = [cut for f in state.fragments if f.round for cut in f.round.arrived.values()]
        made = [right_cut(state, f) for f in state.fragments]
        values["cut"] = here + made
        values["outstanding"] = [tuple(made), tuple(here)]
        member = members.get("b")
        values["step"] = [member.step + 1] if member else [1]
        values["tokens"] = [member.tokens + 100] if member else [1]
    return values


def right_cut(state: Any, fragment: Any) -> Cut:
    """A cut that the shard would take."""
    seat = state.seats.get("b")
    through = seat.through[fragment.number // 2] if seat else 0
    id = CutId("b", seat.incarnation if seat else 1, 10**6)
    return Cut(
        id, fragment.number, fragment.version, through, through + 400, 4, fragment.round_number, 400
    )


# ---------------------------------------------------------------- what must hold


def feed(core: Core, event: Any) -> list[fx.Effect]:
    """One event: no exception, no spin, no invariant broken, and a refusal changes nothing."""
    before = core.snapshot()
    now_s = before.now_s + 0.01
    effects = core.handle(now_s, event)
    assert not math.isnan(core.next_deadline_s())
    if effects and all(isinstance(each, fx.Refuse) for each in effects):
        assert without_time(core) == timeless(before), f"a refused {event} changed something"
    if isinstance(core, ShardCore):
        assert check_shard(core.state) == []
    if isinstance(core, LearnerCore):
        assert check_learner(core.state) == []
    due_s = core.next_deadline_s()
    if due_s < math.inf:
        core.handle(max(due_s, now_s), ev.Tick())
        assert core.next_deadline_s() > max(due_s, now_s), "a driver would spin"
    return effects


def without_time(core: Core) -> Any:
    return timeless(core.snapshot())


def timeless(state: Any) -> Any:
    return dataclasses.replace(state, now_s=0.0)


def handled(kind: int) -> list[type]:
    return [each for each in core_at(0, kind)._handlers if each not in TRUSTED]


CASES = [
    pytest.param(kind, each, id=f"{who}-{each.__name__}")
    for kind, who in ((SHARD, "shard"), (COORDINATOR, "coordinator"), (LEARNER, "learner"))
    for each in handled(kind)
]


@pytest.mark.parametrize(("kind", "event_type"), CASES)
@settings(max_examples=NUM_EXAMPLES)
@given(data=st.data(), scene=scene)
def test_absurd_input_raises_nothing_and_a_refusal_changes_nothing(
    kind: int, event_type: type, data: st.DataObject, scene: int
) -> None:
    core = core_at(scene, kind)
    event = data.draw(any_of(event_type))
    if data.draw(st.integers(0, 4)):
        event = near(core, event, data.draw)
    feed(core, event)
    feed(core, event)


@pytest.mark.parametrize(
    "kind", [SHARD, COORDINATOR, LEARNER], ids=["shard", "coordinator", "learner"]
)
@settings(max_examples=NUM_EXAMPLES)
@given(data=st.data(), scene=scene)
def test_one_absurdity_after_another(kind: int, data: st.DataObject, scene: int) -> None:
    core = core_at(scene, kind)
    for _ in range(data.draw(st.integers(2, 5))):
        event = data.draw(absurd)
        feed(core, near(core, event, data.draw))
