"""`learner.shards` against a scripted coordinator: which stream, from where, told when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import atoll
from atoll.core import messages as msg
from atoll.core.settings import ProtocolSettings
from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.fragments.model import tensors_of
from atoll.learner import DataError, Learner, shards
from atoll.learner.joining import IslandOptions
from atoll.merge.chain import Chain, first_version
from ferry.lagoon import Lagoon, greet

SETTINGS = ProtocolSettings(
    M=1, P=2, H=4, tau=1, receipt="keep", beat_s=0.1, silence_s=1.0, retry_s=0.05
)
LIMIT_S = 20.0


class Lines:
    """A stream that can say where it is and go on from there."""

    def __init__(self, length: int):
        self.length = length
        self.next = 0

    def __iter__(self) -> Iterator[int]:
        while self.next < self.length:
            self.next += 1
            yield self.next - 1
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


@dataclass
class StreamingLagoon(Lagoon):
    """Lends its streams one after another, each once, to whoever wants one."""

    streams: int = 2
    start: str = ""
    lends: bool = True
    granted: dict[int, msg.Granted] = field(default_factory=dict)
    told: list[msg.DataPosition] = field(default_factory=list)
    void: set[int] = field(default_factory=set)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "data": {"num_streams": self.streams, "leases_ahead": 2}}

    def answer(self, _: Lagoon, message: object) -> None:
        greet(self, message)
        if isinstance(message, msg.DataPosition) and message not in self.told:
            self.told.append(message)
        if isinstance(message, msg.WantData) and self.lends:
            begun = {each.lease for each in self.told} | self.void
            if all(lease in begun for lease in self.granted) and len(self.granted) < self.streams:
                number = len(self.granted) + 1
                lease = msg.Granted(1, number, 0, 0, 0, number - 1, self.start)
                self.granted[number] = lease
            for number, lease in self.granted.items():
                if number not in begun:
                    self.say(lease)

    @property
    def positions(self) -> list[tuple[int, str, bool]]:
        return [(each.lease, each.position, each.finished) for each in self.told]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))


@pytest.fixture
def lagoon() -> Iterator[StreamingLagoon]:
    made = StreamingLagoon(SETTINGS)
    made.on_message = made.answer
    model = tiny()
    layout, tensors = Layout.from_module(model, SETTINGS.P), tensors_of(model)
    made.chains = {f: Chain(first_version(gather(layout, f, tensors).clone())) for f in range(2)}
    yield made
    made.close()


@pytest.fixture
def join(lagoon: StreamingLagoon) -> Iterator[Callable[[], Learner]]:
    made: list[Learner] = []

    def joined() -> Learner:
        options = IslandOptions(join_s=LIMIT_S)
        made.append(atoll.join(tiny(), invite=lagoon.invite, name="ann", options=options))
        return made[-1]

    yield joined
    for learner in made:
        learner.close(0.0)


def wait(until: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < deadline_s, "what was waited for never came"
        time.sleep(0.005)


def at(place: int) -> str:
    return json.dumps({"next": place})


def test_positions_are_the_streams_own_and_follow_steps(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    shard = next(learner.shards(2))
    assert (shard.index, shard.position, shard.is_repeat) == (0, "", False)
    reader = shard.read(Lines(9))
    assert [next(reader), next(reader)] == [0, 1]
    time.sleep(0.2)
    assert lagoon.positions == []
    learner.step(tokens=8)
    wait(lambda: lagoon.positions == [(1, at(2), False)])
    assert lagoon.told[0].tokens == 8


def test_reading_goes_on_where_somebody_else_came_to(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    lagoon.start = at(5)
    assert next(next(join().shards(2)).read(Lines(9))) == 5


def test_a_stream_at_its_end_gives_way_to_the_next_and_none_is_held_ahead(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    learner, seen = join(), []
    for shard in learner.shards(2):
        for item in shard.read(Lines(4)):
            seen.append((shard.index, item, shard.is_repeat))
            ahead = len(lagoon.granted) - shard.index - 1
            assert shard.is_repeat or not ahead, "the next one is not held ahead"
            learner.step(tokens=8)
            time.sleep(0.02)
        if shard.index == 1:
            break
    assert [each for each in seen if not each[2]] == [
        (s, i, False) for s in (0, 1) for i in range(4)
    ]
    assert {index for index, _, is_repeat in seen if is_repeat} <= {0}
    wait(lambda: (1, at(4), True) in lagoon.positions)
    assert {each.lease for each in lagoon.told} == {1, 2}, "repeats tell nothing"


def test_without_a_free_stream_the_last_is_read_again(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    lagoon.streams = 1
    learner, repeats = join(), 0
    for shard in learner.shards(1):
        repeats += shard.is_repeat
        for _ in shard.read(Lines(3)):
            learner.step(tokens=8)
        if repeats == 2:
            break
    assert learner._data is not None and learner._data.repeats == 2


def test_a_stream_left_before_its_end_comes_again(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    streams = learner.shards(2)
    reader = next(streams).read(Lines(9))
    next(reader)
    learner.step(tokens=8)
    again = next(streams)
    assert (again.index, again.position) == (0, at(1))
    assert next(again.read(Lines(9))) == 1


def test_positions_of_the_loops_own(lagoon: StreamingLagoon, join: Callable[[], Learner]) -> None:
    learner = join()
    shard = next(learner.shards(2))
    shard.acknowledge("file 3, line 7")
    learner.step(tokens=8)
    shard.finish()
    learner.step(tokens=8)
    wait(lambda: lagoon.positions[-1:] == [(1, "file 3, line 7", True)])
    with pytest.raises(DataError, match="too long"):
        shard.acknowledge("x" * 5000)


def test_a_new_life_begins_with_another_lease(
    lagoon: StreamingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    streams = learner.shards(2)
    shard = next(streams)
    reader = shard.read(Lines(1000))
    next(reader)
    lagoon.void = {1}
    process = learner._ferry.passage.process
    lagoon.say(msg.Welcome(1, "ann", 2, False, 1, True, process))
    wait(lambda: learner.incarnation == 2)
    assert list(reader) == [], "what this life has no lease for is left"
    deadline_s = time.monotonic() + LIMIT_S
    while (shard := next(streams)).is_repeat:
        assert time.monotonic() < deadline_s
        for _ in shard.read(Lines(1000)):
            learner.step(tokens=8)
            time.sleep(0.01)
    assert (shard.index, shard.incarnation) == (1, 2)


def test_what_cannot_be_read_is_refused(
    lagoon: StreamingLagoon, join: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FIRST_LEASE_S", 0.2)
    learner = join()
    with pytest.raises(DataError, match=r"shards\(3\).*leases 2 streams"):
        learner.shards(3)
    with pytest.raises(DataError, match=r"use learner\.shards"):
        learner.batches([1, 2], 1)
    shard = next(learner.shards(2))
    with pytest.raises(DataError, match=r"no state_dict: use shard\.acknowledge"):
        next(shard.read([1, 2]))


def test_more_learners_than_streams_is_said(
    lagoon: StreamingLagoon, join: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FIRST_LEASE_S", 0.2)
    lagoon.lends = False
    with pytest.raises(DataError, match="at least as many streams as learners"):
        next(join().shards(2))


def test_an_empty_stream_is_said(lagoon: StreamingLagoon, join: Callable[[], Learner]) -> None:
    def read_empty(learner: Learner) -> None:
        for shard in learner.shards(2):
            list(shard.read(Lines(0)))

    with pytest.raises(DataError, match="stream 0 is empty"):
        read_empty(join())
