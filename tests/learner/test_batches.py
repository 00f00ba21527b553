"""`learner.batches` against a scripted coordinator: whose items, and what is acknowledged when."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import atoll
from atoll.core import messages as msg
from atoll.core.settings import ProtocolSettings
from atoll.ferry.mailbox import Mailbox
from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.fragments.model import tensors_of
from atoll.learner import DataError, Learner, batches
from atoll.learner.joining import IslandOptions
from atoll.merge.chain import Chain, first_version
from ferry.lagoon import Lagoon, greet
from learner.test_end_to_end import World

SETTINGS = ProtocolSettings(
    M=1, P=2, H=4, tau=1, receipt="keep", beat_s=0.1, silence_s=1.0, retry_s=0.05
)
LIMIT_S = 20.0
ITEMS = 60


class Numbers(Dataset[int]):
    """Item i is the number i."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> int:
        assert 0 <= index < ITEMS
        return index


@dataclass
class LendingLagoon(Lagoon):
    """Grants index leases as the coordinator does: up to `ahead` that are not begun."""

    data: dict[str, int] = field(default_factory=lambda: {"dataset_items": ITEMS})
    lease_items: int = 12
    lends: bool = True
    granted: dict[int, msg.Granted] = field(default_factory=dict)
    positions: list[msg.DataPosition] = field(default_factory=list)
    void: set[int] = field(default_factory=set)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "data": {"leases_ahead": 2, **self.data}}

    def answer(self, _: Lagoon, message: object) -> None:
        greet(self, message)
        if isinstance(message, msg.DataPosition):
            self.positions.append(message)
        if isinstance(message, msg.WantData) and self.lends:
            begun = {each.lease for each in self.positions} | self.void
            waiting = [lease for lease in self.granted.values() if lease.lease not in begun]
            for lease in waiting:
                self.say(lease)
            for _ in range(message.ahead - len(waiting)):
                self.say(self.next())

    def next(self) -> msg.Granted:
        number = len(self.granted) + 1
        turn, first = divmod((number - 1) * self.lease_items, ITEMS)
        stop = first + self.lease_items
        self.granted[number] = msg.Granted(1, number, turn, first, stop, -1, str(first))
        return self.granted[number]

    @property
    def told(self) -> list[tuple[int, str, bool]]:
        """Positions in order, repeats left out."""
        found: list[tuple[int, str, bool]] = []
        for each in list(self.positions):
            entry = (each.lease, each.position, each.finished)
            if entry not in found:
                found.append(entry)
        return found


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))


@pytest.fixture
def lagoon() -> Iterator[LendingLagoon]:
    made = LendingLagoon(SETTINGS)
    made.on_message = made.answer
    model = tiny(1)
    layout, tensors = Layout.from_module(model, SETTINGS.P), tensors_of(model)
    made.chains = {f: Chain(first_version(gather(layout, f, tensors).clone())) for f in range(2)}
    yield made
    made.close()


@pytest.fixture
def join(lagoon: LendingLagoon) -> Iterator[Callable[[], Learner]]:
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


def pull(learner: Learner, lagoon: LendingLagoon, reader: Iterator[Any], num: int) -> list[int]:
    """Train so many batches, each acknowledged before the next; their items."""
    items: list[int] = []
    for _ in range(num):
        items += next(reader).tolist()
        before = len(lagoon.told)
        learner.step(tokens=8)
        wait(lambda before=before: len(lagoon.told) > before)  # type: ignore[misc]
    return items


# ---------------------------------------------------------------- whose items


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_leases_make_passes_over_the_data(
    lagoon: LendingLagoon, join: Callable[[], Learner], num_workers: int
) -> None:
    learner = join()
    reader = learner.batches(Numbers(), 4, num_workers=num_workers)
    first = pull(learner, lagoon, reader, ITEMS // 4)
    second = pull(learner, lagoon, reader, ITEMS // 4)
    assert sorted(first) == sorted(second) == list(range(ITEMS))
    assert first != second, "every pass is mixed anew"
    assert learner.repeated_items == 0
    assert [each for each in lagoon.told if each[2]][:2] == [(1, "12", True), (2, "24", True)]


def test_everybody_draws_from_the_same_order(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    first = pull(learner := join(), lagoon, learner.batches(Numbers(), 4), 3)
    learner.close(0.0)
    lagoon.granted.clear()
    lagoon.positions.clear()
    again = pull(learner := join(), lagoon, learner.batches(Numbers(), 4), 3)
    assert first == again


def test_a_batch_may_span_leases(lagoon: LendingLagoon, join: Callable[[], Learner]) -> None:
    learner = join()
    items = pull(learner, lagoon, learner.batches(Numbers(), 10), 6)
    assert sorted(items) == list(range(ITEMS)) and learner.repeated_items == 0
    assert lagoon.told[:3] == [(1, "10", False), (1, "12", True), (2, "20", False)]


def test_leases_smaller_than_a_batch_are_filled_up(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    lagoon.lease_items = 3
    learner = join()
    reader = learner.batches(Numbers(), 10)
    assert len(pull(learner, lagoon, reader, 4)) == 40
    assert 0 < learner.repeated_items < 40


# ---------------------------------------------------------------- what is acknowledged


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_positions_follow_steps_and_not_what_was_prefetched(
    lagoon: LendingLagoon, join: Callable[[], Learner], num_workers: int
) -> None:
    learner = join()
    reader = learner.batches(Numbers(), 2, num_workers=num_workers)
    next(reader)
    next(reader)
    next(reader)
    time.sleep(0.3)
    assert lagoon.told == [], "nothing was trained"
    learner.step(tokens=8)
    wait(lambda: bool(lagoon.told))
    assert lagoon.told == [(1, "6", False)], "three batches in one step, none of the prefetched"
    assert lagoon.positions[0].tokens == 8


def test_a_skipped_step_acknowledges_nothing(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    reader = learner.batches(Numbers(), 2)
    next(reader)
    learner.step(tokens=8, applied=False)
    next(reader)
    time.sleep(0.2)
    assert lagoon.told == []
    learner.step(tokens=8)
    wait(lambda: lagoon.told == [(1, "4", False)])


def test_data_is_not_safe_before_the_tokens_of_its_step_are_known(
    lagoon: LendingLagoon, join: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count on its way from a device: a cut up to the known tokens may lack the step."""
    learner = join()
    later = learner._later
    later.give(8)
    monkeypatch.setattr(later, "take", list)
    reader = learner.batches(Numbers(), 2)
    next(reader)
    learner.step(tokens=8)
    time.sleep(0.3)
    assert lagoon.told == []
    monkeypatch.undo()
    next(reader)
    learner.step(tokens=8)
    wait(lambda: bool(lagoon.told) and lagoon.told[-1] == (1, "4", False))
    assert lagoon.positions[0].tokens == 24


def test_what_was_prefetched_and_not_used_is_drawn_again(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    first = pull(learner, lagoon, learner.batches(Numbers(), 4), 2)
    rest = pull(learner, lagoon, learner.batches(Numbers(), 4), ITEMS // 4 - 2)
    assert sorted(first + rest) == list(range(ITEMS))


# ---------------------------------------------------------------- without leases


def test_a_cut_link_does_not_stop_training(
    lagoon: LendingLagoon, join: Callable[[], Learner], caplog: pytest.LogCaptureFixture
) -> None:
    learner = join()
    reader = learner.batches(Numbers(), 4)
    pull(learner, lagoon, reader, 1)
    wait(lambda: len(learner._mailbox.leases) + len(learner._data._hand.held) > 2)  # type: ignore[union-attr]
    lagoon.lends = False
    lagoon.cut_all()
    caplog.set_level(logging.INFO, "atoll.learner")
    slowest_s = 0.0
    for _ in range(40):
        began_s = time.monotonic()
        next(reader)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        learner.step(tokens=8)
    assert slowest_s < 1.0, "nothing waits for a lease"
    assert 20 * 4 < learner.repeated_items < 40 * 4
    assert len([1 for each in caplog.records if "repeating data" in each.message]) == 1
    lagoon.lends = True
    repeats = 0

    def train_on() -> bool:
        nonlocal repeats
        repeats = learner.repeated_items
        next(reader)
        learner.step(tokens=8)
        return learner.repeated_items == repeats

    wait(train_on)
    assert "there are leases again" in caplog.text


def test_the_first_batch_waits_for_a_lease_and_not_for_ever(
    lagoon: LendingLagoon, join: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "FIRST_LEASE_S", 0.2)
    lagoon.lends = False
    learner = join()
    assert len(next(learner.batches(Numbers(), 4))) == 4
    assert learner.repeated_items == 4


def test_a_run_without_leases_reads_in_an_order_of_its_own(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    lagoon.data = {}
    learner, items = join(), []
    for batch in learner.batches(Numbers(), 4):
        items += batch.tolist()
        learner.step(tokens=8)
        if len(items) == ITEMS:
            break
    assert sorted(items) == list(range(ITEMS))
    assert learner.repeated_items == 0 and lagoon.told == []


def test_batches_end_with_the_run(lagoon: LendingLagoon, join: Callable[[], Learner]) -> None:
    learner = join()
    num_batches = 0
    for _ in learner.batches(Numbers(), 4):
        num_batches += 1
        learner.step(tokens=8)
        if num_batches == 5:
            lagoon.say(msg.Ended(1, "the budget is reached"))
        if num_batches >= 5:
            time.sleep(0.01)
    assert num_batches >= 5


def test_leases_of_an_earlier_life_are_let_go(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    reader = learner.batches(Numbers(), 4)
    pull(learner, lagoon, reader, 1)
    process = learner._ferry.passage.process
    old = lagoon.void = set(lagoon.granted)
    lagoon.say(msg.Welcome(1, "ann", 2, False, 1, True, process))
    wait(lambda: learner.incarnation == 2)
    told = len(lagoon.positions)
    deadline_s = time.monotonic() + LIMIT_S
    while not {each.lease for each in lagoon.positions[told:]} - old:
        assert time.monotonic() < deadline_s
        next(reader)
        learner.step(tokens=8)
        time.sleep(0.01)
    assert not {each.lease for each in lagoon.positions[told:]} & old
    assert {each.incarnation for each in lagoon.positions[told:]} == {2}


# ---------------------------------------------------------------- what is refused


def test_another_data_set_is_refused_with_both_sizes(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    lagoon.data = {"dataset_items": 61}
    with pytest.raises(DataError, match="60 items here, but the run leases 61"):
        join().batches(Numbers(), 4)


def test_what_cannot_be_leased_is_refused(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    learner = join()
    with pytest.raises(DataError, match=r"learner\.shards"):
        learner.batches(Stream(), 4)
    with pytest.raises(DataError, match="batch_size"):
        learner.batches(Numbers())
    with pytest.raises(DataError, match="shuffle"):
        learner.batches(Numbers(), 4, shuffle=True)
    with pytest.raises(DataError, match="empty"):
        learner.batches([], 4)
    with pytest.raises(DataError, match=r"shards\(2\).*leases 0 streams"):
        learner.shards(2)
    reader = learner.batches(Numbers(), 4)
    next(reader)
    with pytest.raises(DataError, match="being read already"):
        learner.batches(Numbers(), 4)


def test_a_loader_keeps_what_it_was_made_with(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    def collate(items: list[int]) -> torch.Tensor:
        return torch.tensor(items) + 1000

    learner = join()
    loader: DataLoader[int] = DataLoader(Numbers(), batch_size=6, shuffle=True, collate_fn=collate)
    batch = next(learner.batches(loader))
    assert len(batch) == 6 and int(batch.min()) >= 1000


def test_torchs_dice_are_left_alone(lagoon: LendingLagoon, join: Callable[[], Learner]) -> None:
    learner = join()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    next(learner.batches(Numbers(), 4))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- workers


class OpenSockets(Dataset[int]):
    """An item is how many of the learner's connections this process has, asked in the worker."""

    def __init__(self, ports: list[int]):
        self.ports = ports
        self.parent = os.getpid()

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> int:
        assert os.getpid() != self.parent, "a worker reads"
        return len([1 for port in connected_ports() if port in self.ports])


def connected_ports() -> list[int]:
    """Ports that this process's open sockets are connected to."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                found.append(copy.getpeername()[1])
        except (OSError, ValueError, IndexError, TypeError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_workers_hold_none_of_the_learners_sockets(
    lagoon: LendingLagoon, join: Callable[[], Learner]
) -> None:
    learner = join()
    assert lagoon.port in connected_ports(), "the learner itself is connected"
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    reader = learner.batches(OpenSockets([lagoon.port]), 4, **options)
    for _ in range(3):
        assert next(reader).tolist() == [0, 0, 0, 0]
        learner.step(tokens=8)
    assert lagoon.port in connected_ports()


# ---------------------------------------------------------------- a real syncer


def test_two_learners_and_a_syncer_make_a_pass_and_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[tuple[int, int, int]] = []

    def lend(self: Mailbox, granted: msg.Granted) -> None:
        lent.append((self.incarnation, granted.turn, granted.stop))
        keep(self, granted)

    keep = Mailbox.lend
    monkeypatch.setattr(Mailbox, "lend", lend)
    world = World(tmp_path, tls=False)
    run = {"run": "reef", "budget_tokens": 10**9, "lease_s": 2.0, "progress_every_s": 0.2}
    settings = {"run": {**run, "dataset_items": ITEMS, "lease_items": 12}}
    settings["protocol"] = {"M": 2, "P": 2, "H": 4, "beat_s": 0.2, "silence_s": 1.0}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    world.start_syncer(new=True)
    assert world.invite is not None
    try:
        ann, bob = (atoll.join(tiny(), invite=world.invite, name=name) for name in ("ann", "bob"))
        readers = {learner: learner.batches(Numbers(), 4) for learner in (ann, bob)}
        items: list[int] = []
        for _ in range(5):
            for learner, reader in readers.items():
                items += next(reader).tolist()
                learner.step(tokens=4)
                time.sleep(0.02)
        assert len(items) == len(set(items)) == 40, "nobody has what the other has"
        bob.close(0.0)
        pieces = {(turn, stop) for life, turn, stop in lent if life == bob.incarnation}
        deadline_s = time.monotonic() + LIMIT_S
        while not pieces & {(turn, stop) for life, turn, stop in lent if life == ann.incarnation}:
            assert time.monotonic() < deadline_s, lent
            next(readers[ann])
            ann.step(tokens=4)
            time.sleep(0.02)
        ann.close(0.0)
    finally:
        world.kill("syncer")
