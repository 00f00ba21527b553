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
from atoll.core.ids import Cut, CutId, Mark, TransferId
from atoll.core.invariants import check_coordinator, check_learner, check_shard
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

PROTOCOL = ProtocolSettings(M=3, P=4, H=4, K=2, beat_s=1.0, silence_s=4.0, unmerged="carry")
RUN = RunSettings("run", "layout", 20_000, num_shards=2, dataset_items=500, lease_items=20)
NUM_EXAMPLES = int(os.environ.get("ATOLL_BAD_INPUTS", "50"))
NUM_TRAINING = 12
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
    world = World(PROTOCOL, RUN, islands, Conditions(seed=5, merge_s=0.2, restore_s=20.0))
    found = [("nobody is there", [core.snapshot() for core in at(world)])]
    for name, seconds in (("joining", 0.12), ("welcome", 0.1), ("version 0 comes", 0.45)):
        world.run_for(seconds)
        found.append((name, [core.snapshot() for core in at(world)]))
    world.run_for(10.0)
    for step in range(NUM_TRAINING):
        world.run_for(0.27)
        found.append((f"training {step}", [core.snapshot() for core in at(world)]))
    world.learners["b"].cut_link()
    world.run_for(1.3)
    found.append(("the link is cut", [core.snapshot() for core in at(world)]))
    world.learners["b"].mend_link()
    world.kill_syncer()
    world.run_for(1.0)
    world.start_syncer()
    found.append(("the syncer is back", [core.snapshot() for core in at(world)]))
    world.run_for(4.0)
    world.learners["b"].kill()
    world.learners["b"].start()
    for fragment in range(3):
        world.run_until(lambda at=fragment: world.learners["b"].core.state.restore.taken == at, 9.0)
        found.append((f"restoring {fragment}", [core.snapshot() for core in at(world)]))
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
        f.round is not None
        for n in range(NUM_TRAINING)
        for f in by_name[f"training {n}"][SHARD].fragments
    )
    assert any(
        f.merge is not None
        for n in range(NUM_TRAINING)
        for f in by_name[f"training {n}"][SHARD].fragments
    )
    assert any(
        h.ledger.outstanding
        for n in range(NUM_TRAINING)
        for h in by_name[f"training {n}"][LEARNER].holdings
    )
    assert by_name["the syncer is back"][SHARD].epoch == 2
    assert by_name["restoring 1"][LEARNER].restore.taken == 1
    assert by_name["restoring 1"][COORDINATOR].asks
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
    TransferId: st.builds(TransferId, whole, whole, whole),
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
        mine = [TransferId(state.incarnation, 9, 8), TransferId(9, state.incarnation, 8)]
        values["transfer"] = [*mine, state.restore.transfer, state.lending.transfer]
        values["index"] = [state.restore.taken, 0, 1]
        values["cuts"] = [tuple(h.number for h in state.holdings if h.cut)]
        values["installs"] = [tuple(h.number for h in state.holdings if h.install)]
        return values
    members = state.roster.members
    lives = [member.incarnation for member in members.values()]
    if isinstance(core, CoordinatorCore) and state.asks:
        values["transfer"] = [ask.transfer for ask in state.asks.values()]
        values["index"] = [ask.arrived for ask in state.asks.values()]
        values["attempt"] = [ask.transfer.attempt for ask in state.asks.values()]
        values["kind"], values["left_s"] = ["optimizer"], [5.0]
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
    if isinstance(core, CoordinatorCore):
        assert check_coordinator(core.state) == []
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


# ---------------------------------------------------------------- whose business it is not

SAID_BY_LEARNERS = (
    msg.Report,
    msg.Beat,
    msg.Leave,
    msg.WantData,
    msg.DataPosition,
    ev.Disconnected,
)
TOLD_TO_LEARNERS = (
    msg.Welcome,
    msg.Begin,
    msg.Initialise,
    msg.Granted,
    msg.Progress,
    msg.Finishing,
    msg.Ended,
    msg.Rejected,
    msg.Replaced,
    msg.Call,
    msg.Published,
    msg.Dropped,
    msg.Wanted,
)


@pytest.mark.parametrize("kind", [SHARD, COORDINATOR], ids=["shard", "coordinator"])
@pytest.mark.parametrize("event_type", SAID_BY_LEARNERS)
@settings(max_examples=NUM_EXAMPLES)
@given(data=st.data(), scene=scene)
def test_who_is_not_there_changes_nothing(
    kind: int, event_type: type, data: st.DataObject, scene: int
) -> None:
    core = core_at(scene, kind)
    before = core.snapshot()
    event = near(core, data.draw(any_of(event_type)), data.draw)
    who, life = data.draw(st.sampled_from([("nobody", 1), ("b", 99), ("b", 0), ("b", -1)]))
    core.handle(before.now_s, dataclasses.replace(event, learner=who, incarnation=life))
    assert without_time(core) == timeless(before)


@pytest.mark.parametrize("event_type", TOLD_TO_LEARNERS)
@settings(max_examples=NUM_EXAMPLES)
@given(data=st.data(), scene=scene)
def test_an_older_epoch_changes_nothing(event_type: type, data: st.DataObject, scene: int) -> None:
    core = core_at(scene, LEARNER)
    before = core.snapshot()
    event = near(core, data.draw(any_of(event_type)), data.draw)
    core.handle(before.now_s, dataclasses.replace(event, epoch=0))
    assert without_time(core) == timeless(before)


@pytest.mark.parametrize("event_type", [msg.Dropped, msg.Wanted, ev.Uploaded, ev.UploadFailed])
@settings(max_examples=NUM_EXAMPLES)
@given(data=st.data(), scene=scene)
def test_a_cut_of_somebody_else_changes_nothing(
    event_type: type, data: st.DataObject, scene: int
) -> None:
    core = core_at(scene, LEARNER)
    before = core.snapshot()
    event = near(core, data.draw(any_of(event_type)), data.draw)
    number = data.draw(st.integers(1, before.next_cut))
    whose = data.draw(st.sampled_from([("a", before.incarnation), ("b", before.incarnation + 1)]))
    core.handle(before.now_s, dataclasses.replace(event, cut=CutId(*whose, number)))
    assert without_time(core) == timeless(before)


# ---------------------------------------------------------------- found so


def scene_called(wanted: str) -> int:
    return [called for called, _ in scenes()].index(wanted)


def test_a_refused_message_does_not_raise_the_epoch() -> None:
    core = core_at(scene_called("training 0"), LEARNER)
    known = dict(core.state.epochs)
    for message in (
        msg.Progress(9, 1, 2, 0),
        msg.Call(9, 0, 10**6, 0),
        msg.Published(9, 0, -1, "", ()),
        msg.Dropped(9, CutId("a", 1, 1), 0, "late", ""),
        msg.Welcome(9, "b", 0, True, 2, True),
    ):
        effects = core.handle(core.state.now_s, message)
        assert [type(effect) for effect in effects] == [fx.Refuse]
        assert core.state.epochs == known


def test_a_beat_about_a_cut_of_another_learner_is_not_answered() -> None:
    """Else one learner could make the shard tell another that a good cut is dropped."""
    core = core_at(scene_called("training 0"), SHARD)
    life = core.state.roster.members["b"].incarnation
    of_a = Cut(CutId("a", core.state.roster.members["a"].incarnation, 3), 0, 10**6, 0, 1, 1, 0, 1)
    effects = core.handle(core.state.now_s, msg.Beat("b", life, 0.0, 0.0, (9,) * 4, (of_a,)))
    to_a = [e for e in effects if isinstance(e, fx.Send) and "a" in e.to]
    assert not [e for e in to_a if isinstance(e.message, msg.Dropped | msg.Wanted)]


def test_a_welcome_to_a_thousand_million_shards_is_refused() -> None:
    core = core_at(scene_called("joining"), LEARNER)
    core.handle(core.state.now_s, ev.JoinAsked("b#1"))
    welcome = msg.Welcome(1, "b", 7, False, 10**9, False, core.state.process)
    effects = core.handle(core.state.now_s, welcome)
    assert [effect.reason.code for effect in effects] == ["malformed"]
    assert core.state.num_shards <= PROTOCOL.P


def test_numbers_beyond_measure_are_malformed() -> None:
    core = core_at(scene_called("training 0"), SHARD)
    life = core.state.roster.members["b"].incarnation
    for tokens in (-1, 1 << 62, 10**400):
        effects = core.handle(core.state.now_s, msg.Report("b", life, 10**6, tokens, 1.0))
        assert [effect.reason.code for effect in effects] == ["malformed"]
