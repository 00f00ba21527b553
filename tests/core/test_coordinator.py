"""The coordinator: joining, version 0, membership, progress, data, the end, and restarts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import CoordinatorCore, CoordinatorState, RunSettings
from atoll.core.settings import ProtocolSettings, SettingsError

PROTOCOL = ProtocolSettings(M=3, P=4, H=8)
RUN = RunSettings("run-1", "layout-1", 1_000_000, num_shards=2)
SHARDS = ("shard-0", "shard-1")
NEVER = float("inf")
T = TypeVar("T")


@dataclass
class Office:
    """A coordinator whose records become durable at once, unless they are held back."""

    run: RunSettings = RUN
    now_s: float = 1.0
    hold_back: bool = False
    epoch: int = 1
    out: list[fx.Effect] = field(default_factory=list)
    log: list[fx.Persist] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = CoordinatorCore(PROTOCOL, self.run)

    def __call__(self, event: object) -> list[fx.Effect]:
        """Hand over an event; returns the effects, those of durable records included."""
        effects = self.core.handle(self.now_s, event)
        records = [effect for effect in effects if isinstance(effect, fx.Persist)]
        self.log += records
        if not self.hold_back:
            for record in records:
                effects = effects + self(ev.Persisted(record.number))
        self.out = effects
        return effects

    def wait(self, seconds: float) -> list[fx.Effect]:
        """Let time pass, with a tick at every deadline on the way."""
        end_s, effects = self.now_s + seconds, []
        while (at_s := self.core.next_deadline_s()) <= end_s:
            self.now_s = max(self.now_s, at_s)
            effects += self(ev.Tick())
            assert self.core.next_deadline_s() > self.now_s, "a driver would spin"
        self.now_s = end_s
        self.out = effects
        return effects

    def join(self, name: str, process: str = "", incarnation: int = 0) -> int:
        """A process joins; returns its incarnation."""
        self(msg.Hello(name, process or f"{name}-process", "layout-1", incarnation))
        return said(self.out, msg.Welcome)[-1].incarnation

    def begin(self) -> None:
        for fragment in range(PROTOCOL.P):
            self(msg.FragmentReady(fragment))
        assert self.core.state.phase == "training"

    def report(self, name: str, life: int, step: int, tokens: int) -> list[fx.Effect]:
        return self(msg.Report(name, life, step, tokens, 1.0))

    def beat(self, name: str, life: int, held: int = 0) -> list[fx.Effect]:
        return self(msg.Beat(name, life, 0.1, 0.0, (held,) * PROTOCOL.P, ()))

    def settle(self, name: str, life: int, position: int) -> None:
        for fragment in range(PROTOCOL.P):
            self(msg.Settled(fragment, 1, position, ((name, life, position),)))

    def crash(self, kept: CoordinatorState | None = None) -> list[fx.Effect]:
        """A new process takes over from a snapshot (or none) and the records after it."""
        if kept is None:
            self.core = CoordinatorCore(PROTOCOL, self.run)
        else:
            self.core = CoordinatorCore.restore(PROTOCOL, self.run, kept)
        for record in self.log:
            recovered = ev.RecordRecovered(record.number, record.kind, record.fields)
            assert self(recovered) == []
        self.epoch += 1
        return self(ev.Restarted(self.epoch))


def sends(effects: list[fx.Effect], kind: type[T]) -> list[tuple[tuple[str, ...], T]]:
    return [
        (e.to, e.message) for e in effects if isinstance(e, fx.Send) and type(e.message) is kind
    ]


def said(effects: list[fx.Effect], kind: type[T]) -> list[T]:
    return [message for _, message in sends(effects, kind)]


def codes(effects: list[fx.Effect], kind: type[Any]) -> list[str]:
    return [effect.reason.code for effect in effects if isinstance(effect, kind)]


# ---------------------------------------------------------------- joining


def test_nobody_is_welcome_before_the_incarnation_is_durable() -> None:
    office = Office(hold_back=True)
    office(msg.Hello("a", "p1", "layout-1"))
    assert [type(effect) for effect in office.out] == [fx.Persist]
    assert office(msg.Hello("a", "p1", "layout-1")) == [], "one incarnation for one process"
    office(ev.Persisted(1))
    welcome = msg.Welcome(1, "a", 1, False, 2, False, "p1")
    assert sends(office.out, msg.Welcome) == [(("a",), welcome)]
    assert sends(office.out, msg.Admitted) == [(SHARDS, msg.Admitted("a", 1))]


def test_a_hello_repeated_because_the_welcome_was_lost_gets_the_same_incarnation() -> None:
    office = Office()
    assert office.join("a") == office.join("a") == 1
    assert not said(office.out, msg.Admitted)


def test_another_layout_is_rejected_naming_both() -> None:
    office = Office()
    office(msg.Hello("a", "p1", "layout-2"))
    (rejected,) = said(office.out, msg.Rejected)
    assert (rejected.code, rejected.final, rejected.process) == ("layout", True, "p1")
    assert "layout-1" in rejected.sentence
    assert "layout-2" in rejected.sentence
    assert codes(office.out, fx.Refuse) == ["layout"]


@pytest.mark.parametrize("name", ["", "coordinator", "shard-0", "a\nb", "a" * 201])
def test_a_name_that_cannot_be_a_learners_is_rejected(name: str) -> None:
    office = Office()
    office(msg.Hello(name, "p1", "layout-1"))
    assert codes(office.out, fx.Refuse) == ["malformed"]
    assert not office.core.state.lives


def test_newest_process_wins_and_the_replaced_one_is_told() -> None:
    office = Office()
    old = office.join("a", "p1")
    new = office.join("a", "p2")
    assert new > old
    kinds = [type(e.message) if isinstance(e, fx.Send) else type(e) for e in office.out]
    order = [msg.Replaced, fx.Close, msg.Departed, msg.Admitted, msg.Welcome]
    assert [kind for kind in kinds if kind in order] == order
    assert said(office.out, msg.Departed) == [msg.Departed("a", old, "replaced", False)]

    office(msg.Hello("a", "p1", "layout-1", old))
    (rejected,) = said(office.out, msg.Rejected)
    assert (rejected.code, rejected.final, rejected.process) == ("replaced", True, "p1")
    office(msg.Hello("a", "p1", "layout-1"))
    assert codes(office.out, fx.Refuse) == ["replaced"]
    assert office.core.state.roster.members["a"].incarnation == new


def test_a_replaced_learner_that_missed_it_is_told_when_it_beats() -> None:
    office = Office()
    old, new = office.join("a", "p1"), office.join("a", "p2")
    office.beat("a", old)
    assert said(office.out, msg.Replaced) == [msg.Replaced(1, new)]
    assert codes(office.out, fx.Refuse) == ["stale_incarnation"]


def test_two_processes_race_and_the_later_one_wins_in_any_order_of_records() -> None:
    office = Office(hold_back=True)
    office(msg.Hello("a", "p1", "layout-1"))
    office(msg.Hello("a", "p2", "layout-1"))
    office(ev.Persisted(2))
    assert said(office.out, msg.Welcome)[0].process == "p2"
    office(ev.Persisted(1))
    assert said(office.out, msg.Rejected)[0].process == "p1"
    assert office.core.state.roster.members["a"].incarnation == 2


def test_an_old_process_does_not_take_the_name_back_after_it_was_lost() -> None:
    office = Office()
    office.join("a", "p1")
    office.wait(200.0)
    assert not office.core.state.lives
    office.join("a", "p2")
    office(msg.Hello("a", "p1", "layout-1", 1))
    assert codes(office.out, fx.Refuse) == ["replaced"]


def test_the_memory_of_replaced_processes_is_bounded() -> None:
    office = Office()
    for number in range(5000):
        office.join("a", f"p{number}")
    assert len(office.core.state.replaced) == 4096
    assert len(office.core.state.farewells) <= 256
    assert len(office.core.state.lives) == 1


# ---------------------------------------------------------------- version 0


def test_the_first_learner_is_asked_for_version_0_and_all_begin_when_it_is_durable() -> None:
    office = Office()
    a = office.join("a")
    assert sends(office.out, msg.Initialise) == [(("a",), msg.Initialise(1, 120.0))]
    office.join("b")
    assert not said(office.out, msg.Initialise)
    office(msg.InitialOffered("a", a))
    for fragment in (0, 1, 1, 2):
        office(msg.FragmentReady(fragment))
    assert not said(office.out, msg.Begin)
    office(msg.FragmentReady(3))
    assert sends(office.out, msg.Begin) == [(("a", "b"), msg.Begin(1))]
    office.join("c")
    assert said(office.out, msg.Welcome)[0].ready


def test_nobody_begins_before_the_beginning_is_durable() -> None:
    office = Office()
    office.join("a")
    office.hold_back = True
    for fragment in range(4):
        office(msg.FragmentReady(fragment))
    assert not said(office.out, msg.Begin)
    office(ev.Persisted(office.log[-1].number))
    assert said(office.out, msg.Begin)


def test_initialiser_dies_and_the_next_is_named() -> None:
    office = Office()
    a = office.join("a")
    office.join("b")
    office(msg.Leave("a", a, "stop"))
    assert sends(office.out, msg.Initialise)[0][0] == ("b",)


def test_a_silent_initialiser_loses_the_task_at_its_deadline() -> None:
    office = Office()
    lives = {name: office.join(name) for name in ("a", "b", "c")}
    asked = []
    for _ in range(400):
        for name in ("b", "c"):
            office.beat(name, lives[name], held=-1)
        asked += [to for to, _ in sends(office.wait(1.0), msg.Initialise)]
    assert asked == [("b",), ("c",), ("b",)]


def test_an_initialiser_that_is_alone_is_asked_again() -> None:
    office = Office()
    a = office.join("a")
    asked = []
    for _ in range(125):
        office.beat("a", a, held=-1)
        asked += sends(office.wait(1.0), msg.Initialise)
    assert asked == [(("a",), msg.Initialise(1, 120.0))]


def test_a_beat_that_holds_version_0_shows_that_it_is_durable() -> None:
    office = Office()
    a = office.join("a")
    office.beat("a", a, held=0)
    assert said(office.out, msg.Begin)


def test_each_fragment_of_version_0_gives_more_time_for_the_next() -> None:
    office = Office()
    a = office.join("a")
    office.join("b")
    for fragment in range(3):
        for _ in range(100):
            office.beat("a", a, held=-1)
            assert not said(office.wait(1.0), msg.Initialise)
        office(msg.FragmentReady(fragment))


def test_a_lost_initialise_is_said_again_at_a_beat_until_it_is_heeded() -> None:
    office = Office()
    a = office.join("a")
    assert said(office.beat("a", a, held=-1), msg.Initialise)
    office(msg.FragmentReady(0))
    assert not said(office.beat("a", a, held=-1), msg.Initialise)


def test_only_the_named_initialiser_can_offer() -> None:
    office = Office()
    office.join("a")
    b = office.join("b")
    before = office.core.snapshot()
    office(msg.InitialOffered("b", b))
    assert codes(office.out, fx.Refuse) == ["not_initialiser"]
    assert office.core.snapshot() == before


def test_with_a_file_nobody_is_asked_for_version_0() -> None:
    office = Office(replace(RUN, initial="file"))
    office.join("a")
    assert not said(office.out, msg.Initialise)
    assert "file" in office.core.status()["waiting"]
    office.begin()
    assert said(office.out, msg.Begin)


def test_a_lost_begin_is_said_again_at_a_beat() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    assert said(office.beat("a", a, held=-1), msg.Begin)
    assert not said(office.beat("a", a, held=0), msg.Begin)


# ---------------------------------------------------------------- membership


def test_away_learner_resumes_its_session_before_the_lease_ends() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office.report("a", a, 5, 500)
    office(ev.Disconnected("a", a, "reset"))
    assert office.core.status()["away"] == 1
    office.wait(119.0)
    office(msg.Hello("a", "a-process", "layout-1", a))
    assert said(office.out, msg.Welcome) == [msg.Welcome(1, "a", a, True, 2, True, "a-process")]
    assert said(office.out, msg.Progress) == [msg.Progress(1, 500, 500, 1_000_000)]
    assert not said(office.wait(5.0), msg.Departed)


def test_shards_hear_of_a_departure_only_when_a_crash_cannot_undo_it() -> None:
    office = Office()
    a = office.join("a")
    kept, office.log = office.core.snapshot(), []
    office(ev.Disconnected("a", a, "reset"))
    office.hold_back = True
    office.wait(150.0)  # farewells are repeated meanwhile, but not this one
    office(ev.Connected("shard-0", 0))
    assert office.core.status()["registered"] == 0
    assert not said(office.out, msg.Departed)
    lost, office.log = office.log, []
    office.crash(kept)
    office(msg.Hello("a", "a-process", "layout-1", a))
    assert said(office.out, msg.Welcome)[0].incarnation == a, "for the shards it never went"

    office.log = lost
    office.crash(kept)
    assert ("a", a) in {(each.learner, each.incarnation) for each in _departed_after(office)}


def _departed_after(office: Office) -> list[msg.Departed]:
    """What a shard that comes back is told of departures."""
    return said(office(ev.Connected("shard-1", 0)), msg.Departed)


def test_a_learner_that_is_away_for_a_lease_is_gone_and_comes_back_as_a_new_life() -> None:
    office = Office()
    a = office.join("a")
    office(ev.Disconnected("a", a, "reset"))
    office.wait(120.0)
    assert said(office.out, msg.Departed)[0] == msg.Departed("a", a, "lost", False)
    assert [e for e in office.out if isinstance(e, fx.Close)]
    assert office.core.status()["registered"] == 0
    office.beat("a", a)
    (rejected,) = said(office.out, msg.Rejected)
    assert not rejected.final
    assert office.join("a", incarnation=a) > a


def test_a_silent_learner_is_away_and_any_message_brings_it_back() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office.wait(11.0)
    assert "away" in codes(office.out, fx.Note)
    office.report("a", a, 1, 10)
    assert codes(office.out, fx.Note) == ["back"]
    assert office.core.status()["live"] == 1


def test_a_learner_that_comes_and_goes_is_gone_only_after_a_whole_lease_away() -> None:
    office = Office()
    a = office.join("a")
    for _ in range(5):
        office(ev.Disconnected("a", a, "reset"))
        assert not said(office.wait(100.0), msg.Departed)
        office(msg.Hello("a", "a-process", "layout-1", a))
    office(ev.Disconnected("a", a, "reset"))
    office(ev.Disconnected("a", a, "reset"))
    assert len(said(office.wait(121.0), msg.Departed)) >= 1


def test_a_learner_that_evaluates_is_busy_and_told_of_once() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office.report("a", a, 1, 10)
    beat = msg.Beat("a", a, 0.5, 0.0, (0,) * 4, (), busy="evaluation")
    assert codes(office(beat), fx.Note) == ["busy"]
    assert codes(office(beat), fx.Note) == []
    assert office.core.status()["busy"] == 1
    assert codes(office.report("a", a, 2, 20), fx.Note) == ["steps_again"]


def test_a_learner_that_leaves_stays_valid_at_the_shards() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office.report("a", a, 5, 500)
    office(msg.Leave("a", a, "done"))
    assert said(office.out, msg.Departed) == [msg.Departed("a", a, "left", True)]
    assert not office(msg.Leave("a", a, "done"))
    office.report("a", a, 6, 600)
    assert office.core.state.trained == 600, "its last words may come after it"
    assert office.core.status()["registered"] == 0


def test_data_of_a_leaver_returns_when_no_shard_keeps_anything_of_it() -> None:
    office = Office(replace(RUN, dataset_items=100, lease_items=50))
    a = office.join("a")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.report("a", a, 5, 500)
    office(msg.Leave("a", a, "done"))
    for fragment in range(PROTOCOL.P):
        assert len(office.core.state.leases.held) == 1, "its last cut may still be merged"
        office(msg.Settled(fragment, 1, 400, (("a", a, 400),)))
    for fragment in range(PROTOCOL.P):
        assert len(office.core.state.leases.held) == 1, "one fragment still keeps it"
        office(msg.Settled(fragment, 2, 400, ()))
    assert not office.core.state.leases.held, "part of its work was dropped: it is data again"
    assert a not in office.core.state.lives


def test_shards_are_told_again_until_they_show_that_they_know() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    assert (SHARDS, msg.Admitted("a", a)) in sends(office.wait(2.5), msg.Admitted)
    office(msg.Settled(1, 1, 10, (("a", a, 10),)))
    assert {to for to, _ in sends(office.wait(2.5), msg.Admitted)} == {("shard-0",)}
    office(msg.Settled(0, 1, 10, (("a", a, 10),)))
    assert not sends(office.wait(2.5), msg.Admitted)


def test_a_shard_that_comes_back_is_told_who_is_there_and_who_is_not() -> None:
    office = Office()
    a, b = office.join("a"), office.join("b")
    office.begin()
    office.settle("a", a, 10)
    office(msg.Leave("b", b, "done"))
    office(ev.Disconnected("shard-1", 0, "killed"))
    office(ev.Connected("shard-1", 0))
    assert sends(office.out, msg.Departed) == [(("shard-1",), msg.Departed("b", b, "left", True))]
    assert sends(office.out, msg.Admitted) == [(("shard-1",), msg.Admitted("a", a))]


# ---------------------------------------------------------------- progress and end


def test_trained_tokens_count_every_life_once() -> None:
    office = Office()
    a, b = office.join("a"), office.join("b")
    office.begin()
    for tokens in (100, 300, 200, 300):
        office.report("a", a, tokens, tokens)
    office.report("b", b, 1, 50)
    again = office.join("a", "p2")
    office.report("a", a, 9, 9999)
    assert codes(office.out, fx.Refuse) == ["stale_incarnation"]
    office.report("a", again, 1, 25)
    assert office.core.state.trained == 375
    progress = sends(office.wait(2.5), msg.Progress)
    assert (("a",), msg.Progress(1, 375, 25, 1_000_000)) in progress
    assert (("b",), msg.Progress(1, 375, 50, 1_000_000)) in progress


def test_merged_tokens_are_weighted_by_the_size_of_fragments() -> None:
    office = Office(replace(RUN, fragment_sizes=(1, 1, 1, 7)))
    office.begin()
    for fragment, merged in ((3, 1000), (0, 500), (0, 400)):
        office(msg.Settled(fragment, 1, merged, ()))
    assert office.core.status()["merged"] == 750


def finish(office: Office) -> None:
    for fragment in range(4):
        office(msg.FragmentFinal(fragment, 7))


def test_at_the_budget_come_last_rounds_and_then_the_end() -> None:
    office = Office(replace(RUN, budget_tokens=100))
    a = office.join("a")
    office.begin()
    office.report("a", a, 1, 99)
    assert not said(office.out, msg.Finish)
    office.report("a", a, 2, 100)
    assert sends(office.out, msg.Finishing) == [(("a",), msg.Finishing(1))]
    assert sends(office.out, msg.Finish) == [(SHARDS, msg.Finish(30.0))]
    assert not said(office.report("a", a, 3, 110), msg.Finish)
    finish(office)
    assert said(office.out, msg.Ended) == [msg.Ended(1, "the budget of 100 tokens is reached")]
    assert office.core.status()["phase"] == "ended"
    assert office.beat("a", a)[-1].message == msg.Ended(1, "the budget of 100 tokens is reached")
    office(msg.Hello("b", "p", "layout-1"))
    assert codes(office.out, fx.Refuse) == ["ended"]


def test_shards_that_are_down_are_asked_again_until_all_fragments_are_final() -> None:
    office = Office()
    office.begin()
    office(ev.StopAsked("a person asked"))
    office(msg.FragmentFinal(0, 3))
    office(msg.FragmentFinal(2, 3))
    assert [to for to, _ in sends(office.wait(5.0), msg.Finish)] == [("shard-1",)] * 2
    office(msg.FragmentFinal(1, 3))
    office(msg.FragmentFinal(3, -1))
    assert office.core.state.phase == "ended"
    assert office.core.next_deadline_s() == NEVER


def test_stop_before_the_beginning_ends_at_once() -> None:
    office = Office()
    office.join("a")
    office(ev.StopAsked("a person asked"))
    assert said(office.out, msg.Ended) == [msg.Ended(1, "a person asked")]


def test_nobody_new_joins_in_the_last_rounds_but_sessions_go_on() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office(ev.StopAsked("enough"))
    office(msg.Hello("b", "p", "layout-1"))
    assert codes(office.out, fx.Refuse) == ["ended"]
    office(msg.Hello("a", "a-process", "layout-1", a))
    assert said(office.out, msg.Welcome)[0].resumed
    assert said(office.out, msg.Finishing)
    assert said(office.beat("a", a), msg.Finishing)


def test_a_final_version_without_last_rounds_is_refused() -> None:
    office = Office()
    office.begin()
    before = office.core.snapshot()
    assert codes(office(msg.FragmentFinal(0, 3)), fx.Refuse) == ["not_finishing"]
    assert office.core.snapshot() == before


# ---------------------------------------------------------------- data

DATA = replace(RUN, dataset_items=100, lease_items=10)


def pieces(effects: list[fx.Effect]) -> list[tuple[int, int]]:
    return [(each.first, each.stop) for each in said(effects, msg.Granted)]


def test_leases_are_granted_ahead_and_a_repeated_request_gets_the_same() -> None:
    office = Office(DATA)
    a = office.join("a")
    first = pieces(office(msg.WantData("a", a, 2)))
    assert first == [(0, 10), (10, 20)]
    assert pieces(office(msg.WantData("a", a, 2))) == first, "a lost grant is said again"
    office(msg.DataPosition("a", a, 100, 1, "3", False))
    assert pieces(office(msg.WantData("a", a, 9))) == [(10, 20), (20, 30)]


def test_a_lease_is_told_only_when_it_is_durable() -> None:
    office = Office(DATA)
    a = office.join("a")
    office.hold_back = True
    assert not pieces(office(msg.WantData("a", a, 1)))
    assert not pieces(office(msg.WantData("a", a, 1)))
    assert pieces(office(ev.Persisted(office.log[-1].number))) == [(0, 10)]


def test_data_of_a_lost_learner_returns_where_its_merged_work_ends() -> None:
    office = Office(DATA)
    a = office.join("a")
    office.begin()
    office(msg.WantData("a", a, 1))
    for step in range(1, 9):
        office(msg.DataPosition("a", a, step * 100, 1, str(step), False))
        office.report("a", a, step, step * 100)
    for fragment, position in enumerate((800, 700, 300, 600)):
        office(msg.Settled(fragment, 1, position, (("a", a, position),)))
    office.wait(140.0)
    b = office.join("b")
    assert pieces(office(msg.WantData("b", b, 2))) == [(3, 10), (10, 20)]
    assert office.core.status()["repeated_items"] == 5


def test_a_lease_is_let_go_when_it_is_merged_into_every_fragment() -> None:
    office = Office(DATA)
    a = office.join("a")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.settle("a", a, 50)
    office(msg.DataPosition("a", a, 100, 1, "10", True))
    assert office.core.status()["leases_held"] == 1
    office.settle("a", a, 100)
    assert office.core.status()["leases_held"] == 0
    assert office.log[-1].kind == "done"


@pytest.mark.parametrize("settled", [True, False])
def test_data_of_a_learner_that_left_waits_for_its_last_work(settled: bool) -> None:
    office = Office(DATA)
    a, b = office.join("a"), office.join("b")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.report("a", a, 4, 400)
    office(msg.DataPosition("a", a, 400, 1, "4", False))
    office(msg.Leave("a", a, "done"))
    assert pieces(office(msg.WantData("b", b, 1))) == [(10, 20)]
    office(msg.DataPosition("b", b, 10, 2, "11", False))
    if settled:
        office.settle("a", a, 400)
    else:
        for _ in range(121):
            office.beat("b", b)
            office.wait(1.0)
    assert pieces(office(msg.WantData("b", b, 1))) == [(4, 10) if settled else (0, 10)]
    assert a not in office.core.state.lives


def test_streams_run_out_and_come_back() -> None:
    office = Office(replace(RUN, num_streams=1))
    a, b = office.join("a"), office.join("b")
    (granted,) = said(office(msg.WantData("a", a, 1)), msg.Granted)
    assert (granted.stream, granted.position, granted.stop) == (0, "", 0)
    assert codes(office(msg.WantData("b", b, 1)), fx.Refuse) == ["no_data"]
    office(msg.DataPosition("a", a, 10, granted.lease, "offset 77", False))
    office.settle("a", a, 10)
    office.join("a", "p2")
    (granted,) = said(office(msg.WantData("b", b, 1)), msg.Granted)
    assert granted.position == "offset 77"


def test_learners_with_their_own_data_are_told_so() -> None:
    office = Office()
    a = office.join("a")
    assert codes(office(msg.WantData("a", a, 1)), fx.Refuse) == ["no_data"]


# ---------------------------------------------------------------- restarts


def test_a_session_goes_on_over_a_restart_from_records_alone() -> None:
    office = Office(DATA)
    a, b = office.join("a"), office.join("b")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.report("b", b, 3, 300)
    office(msg.Leave("b", b, "done"))
    office.crash()
    assert sends(office.out, msg.Admitted) == [(SHARDS, msg.Admitted("a", a))]
    assert office.core.state.trained == 300, "tokens of a life that is over are in its record"
    assert office.core.status()["away"] == 1
    office(msg.Hello("a", "a-process", "layout-1", a))
    (welcome,) = said(office.out, msg.Welcome)
    assert (welcome.epoch, welcome.resumed, welcome.ready) == (2, True, True)
    office.report("a", a, 8, 800)
    assert office.core.state.trained == 1100
    assert pieces(office(msg.WantData("a", a, 2))) == [(0, 10), (10, 20)]
    assert office.join("c") > b


def test_after_a_restart_everybody_has_a_whole_lease_to_come_back() -> None:
    office = Office(DATA)
    a = office.join("a")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.settle("a", a, 10)
    kept = office.core.snapshot()
    assert kept.lives[a].strangers == []
    office.now_s += 1000.0
    office.crash(kept)
    assert sends(office.out, msg.Admitted) == [(SHARDS, msg.Admitted("a", a))]
    assert not said(office.wait(119.0), msg.Departed)
    assert said(office.wait(2.0), msg.Departed)[0] == msg.Departed("a", a, "lost", False)
    assert office.core.state.leases.returned == [(0, 0, 10)]


def test_what_settled_while_the_coordinator_was_down_is_caught_up() -> None:
    office = Office()
    a = office.join("a")
    office.begin()
    office.crash()
    office.settle("a", a, 400)
    assert office.core.state.trained == 400
    assert office.core.status()["merged"] == 400


def test_work_of_a_life_that_a_crash_forgot_counts_by_what_was_merged_of_it() -> None:
    office = Office()
    a, b = office.join("a"), office.join("b")
    office.begin()
    office.report("a", a, 9, 900)
    office.crash()
    office.join("a", "p2")
    office(msg.Settled(0, 5, 1000, (("b", b, 200),)))
    assert office.core.state.trained == 1000
    office.report("b", b, 3, 300)
    assert office.core.state.trained == 1100


@pytest.mark.parametrize("durable", [True, False])
def test_a_crash_between_a_hello_and_its_record_gives_one_life(durable: bool) -> None:
    office = Office(hold_back=True)
    office(msg.Hello("a", "p1", "layout-1"))
    kept = office.core.snapshot()
    if not durable:
        office.log.clear()
    office.hold_back = False
    office.crash(kept)
    office(msg.Hello("a", "p1", "layout-1"))
    assert said(office.out, msg.Welcome)[0].incarnation == 1
    assert len(office.core.state.lives) == 1


def test_a_finish_survives_a_restart_and_goes_on() -> None:
    office = Office()
    office.begin()
    office.join("a")
    office(ev.StopAsked("enough"))
    office.crash()
    assert sends(office.out, msg.Finish) == [(SHARDS, msg.Finish(30.0))]
    finish(office)
    assert office.core.state.phase == "ended"
    office.crash()
    assert office.core.state.phase == "ended"
    assert office.core.status()["waiting"] == "the run has ended: enough"


def test_a_phase_whose_record_was_lost_is_proposed_again() -> None:
    office = Office()
    office.join("a")
    office.hold_back = True
    for fragment in range(4):
        office(msg.FragmentReady(fragment))
    kept = office.core.snapshot()
    assert kept.proposed == "training"
    office.log.pop()
    office.hold_back = False
    office.crash(kept)
    assert office.core.state.phase == "training"


def test_a_record_under_way_at_the_snapshot_comes_before_those_after_it() -> None:
    """Else the life that it begins would outlive the record that ended it."""
    office = Office()
    office.join("a")
    office.begin()
    office.hold_back = True
    office(msg.Hello("b", "b-process", "layout-1"))
    kept, begun = office.core.snapshot(), office.log[-1]
    assert begun.number in kept.pending
    office.log.clear()
    office.hold_back = False
    office(ev.Persisted(begun.number))
    (b,) = [life.incarnation for life in office.core.state.lives.values() if life.learner == "b"]
    office(msg.Leave("b", b, "done"))
    assert [record.kind for record in office.log] == ["departed"]
    office.crash(kept)
    assert office.core.state.present("b") is None


def test_replaced_processes_stay_out_over_a_restart() -> None:
    office = Office()
    office.join("a", "p1")
    office.join("a", "p2")
    office.crash()
    office(msg.Hello("a", "p1", "layout-1"))
    assert codes(office.out, fx.Refuse) == ["replaced"]


def test_an_initialiser_is_named_again_after_a_restart() -> None:
    office = Office()
    a = office.join("a")
    office.crash()
    assert office.core.state.initialiser_life == 0
    office(msg.Hello("a", "a-process", "layout-1", a))
    assert sends(office.out, msg.Initialise) == [(("a",), msg.Initialise(2, 120.0))]


def test_a_record_of_an_unknown_kind_is_refused() -> None:
    office = Office()
    assert codes(office(ev.RecordRecovered(1, "poem", ())), fx.Refuse) == ["unknown_record"]


# ---------------------------------------------------------------- what nothing may break

GARBAGE = [
    object(),
    ev.Connected("a", 99),
    ev.Connected("nobody", 1),
    ev.Disconnected("a", 99, ""),
    ev.Persisted(12345),
    msg.Hello("a", "p", "other"),
    msg.Hello("shard-7", "p", "layout-1"),
    msg.Report("a", 99, 1, 10, 1.0),
    msg.Report("nobody", 1, 1, 10, 1.0),
    msg.Report("a", 1, 1, -10, 1.0),
    msg.Report("a", 1, -1, 10, 1.0),
    msg.Report("a", 1, 1, 10, float("nan")),
    msg.Report("a", 1, 1, 10, float("inf")),
    msg.Beat("a", 99, 0.0, 0.0, (0,) * 4, ()),
    msg.Beat("a", 1, float("nan"), 0.0, (0,) * 4, ()),
    msg.Beat("a", 1, -1.0, 0.0, (0,) * 4, ()),
    msg.Beat("a", 1, 0.0, 0.0, (0,) * 5, ()),
    msg.Leave("a", 99, ""),
    msg.Leave("nobody", 1, ""),
    msg.WantData("a", 99, 2),
    msg.WantData("a", 1, 0),
    msg.DataPosition("a", 99, 10, 1, "1", False),
    msg.DataPosition("a", 1, 10, 99, "1", False),
    msg.DataPosition("a", 1, -10, 1, "1", False),
    msg.DataPosition("a", 1, 10, 1, "x" * 10_000, False),
    msg.DataPosition("a", 1, 10, 1, "99", False),
    msg.InitialOffered("a", 1),
    msg.FragmentReady(-1),
    msg.FragmentReady(4),
    msg.FragmentFinal(4, 1),
    msg.FragmentFinal(0, 1),
    msg.FragmentFinal(0, -2),
    msg.Settled(4, 1, 1, ()),
    msg.Settled(0, -1, 1, ()),
    msg.Settled(0, 1, -1, ()),
    msg.Settled(0, 0, 0, (("a", 99, 5), ("nobody", 1, 5), ("a", 1, -5))),
    msg.Begin(1),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda each: type(each).__name__)
def test_garbage_changes_nothing(garbage: object) -> None:
    office = Office(DATA)
    a = office.join("a")
    office.begin()
    office(msg.WantData("a", a, 1))
    office.core.next_deadline_s()
    before = office.core.snapshot()
    effects = office(garbage)
    assert office.core.snapshot() == before
    assert all(isinstance(effect, fx.Refuse | fx.Send) for effect in effects)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"run": ""}, "run"),
        ({"budget_tokens": 0}, "budget_tokens"),
        ({"num_shards": 5}, "num_shards"),
        ({"lease_s": 0.0}, "lease_s"),
        ({"progress_every_s": float("nan")}, "progress_every_s"),
        ({"initial": "air"}, "initial"),
        ({"dataset_items": 10}, "lease_items"),
        ({"dataset_items": 10, "lease_items": 1, "num_streams": 1}, "num_streams"),
        ({"fragment_sizes": (1, 2)}, "fragment_sizes"),
        ({"fragment_sizes": (1, 2, 3, 0)}, "fragment_sizes"),
        ({"leases_ahead": True}, "leases_ahead"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        CoordinatorCore(PROTOCOL, replace(RUN, **changes))


def test_a_state_of_other_settings_is_not_gone_on_with() -> None:
    state = CoordinatorCore(PROTOCOL, DATA).snapshot()
    with pytest.raises(SettingsError, match="lease_items"):
        CoordinatorCore.restore(PROTOCOL, replace(DATA, lease_items=20), state)


def test_status_says_what_is_waited_for() -> None:
    office = Office()
    assert "no learner is live" in office.core.status()["waiting"]
    office.join("a")
    assert office.core.status()["waiting"].startswith("a provides version 0: 0 of 4")
    office.begin()
    assert office.core.status()["waiting"] == ""
    office.wait(60.0)
    assert "0 of the 1 learners" in office.core.status()["waiting"]
    msgspec.json.encode(office.core.status())


def random_event(dice: random.Random, core: CoordinatorCore) -> object:
    """Anything that may come, often with a life that is there."""
    name = dice.choice("abc")
    present = core.state.present(name)
    life = present.incarnation if present and dice.random() < 0.9 else dice.randint(0, 9)
    tokens = dice.randint(0, 3000)
    through = ((name, life, dice.randint(0, 3000)),)
    process = present.process if present and dice.random() < 0.7 else f"p{dice.randint(1, 5)}"
    held = dice.choice([(-1,) * 4, (0,) * 4, (0, -1, -1, 0)])
    record = dice.randint(1, core.state.record_number + 1)
    choices: list[tuple[int, object]] = [
        (6, ev.Tick()),
        (6, ev.Persisted(record)),
        (4, msg.Hello(name, process, "layout-1", life if dice.random() < 0.5 else 0)),
        (1, ev.Connected(dice.choice(["a", "b", "shard-0", "shard-1"]), life)),
        (1, ev.Disconnected(name, life, "cut")),
        (1, msg.Leave(name, life, "done")),
        (8, msg.Report(name, life, tokens // 10, tokens, 1.0)),
        (4, msg.Beat(name, life, dice.random() * 9, 0.1, held, ())),
        (3, msg.WantData(name, life, 2)),
        (5, msg.DataPosition(name, life, tokens, dice.randint(1, 9), str(tokens % 11), False)),
        (1, msg.InitialOffered(name, life)),
        (2, msg.FragmentReady(dice.randint(0, 3))),
        (5, msg.Settled(dice.randint(0, 3), 1, tokens, through)),
        (1, msg.FragmentFinal(dice.randint(0, 3), 1)),
        (1, ev.StopAsked("enough") if dice.random() < 0.1 else ev.Tick()),
    ]
    return dice.choices([event for _, event in choices], [weight for weight, _ in choices])[0]


def through_json(state: CoordinatorState) -> CoordinatorState:
    return msgspec.json.decode(msgspec.json.encode(state), type=CoordinatorState)


@given(st.integers(0, 1_000_000))
def test_any_events_are_survived_and_a_restored_core_goes_on_the_same(seed: int) -> None:
    dice, now_s, epoch = random.Random(seed), 0.0, 1
    run = replace(DATA, budget_tokens=dice.choice([2000, 1_000_000]))
    core, log = CoordinatorCore(PROTOCOL, run), []
    kept = core.snapshot()
    copy = CoordinatorCore.restore(PROTOCOL, run, kept)
    for number in range(150):
        now_s += dice.choice([0.0, 0.1, 1.0, 30.0])
        event = random_event(dice, core)
        if dice.random() < 0.1:
            copy = CoordinatorCore.restore(PROTOCOL, run, through_json(core.snapshot()))
        effects = core.handle(now_s, event)
        assert copy.handle(now_s, event) == effects
        assert copy.next_deadline_s() == core.next_deadline_s()
        log += [effect for effect in effects if isinstance(effect, fx.Persist)]
        if isinstance(event, ev.Tick):
            assert core.next_deadline_s() > now_s
        check(core.state)
        if number % 20 == 0:
            kept = core.snapshot()
        if dice.random() < 0.02:
            epoch += 1
            core = CoordinatorCore.restore(PROTOCOL, run, kept)
            for each in log:
                core.handle(now_s, ev.RecordRecovered(each.number, each.kind, each.fields))
            core.handle(now_s, ev.Restarted(epoch))
            check(core.state)
            kept = core.snapshot()
            copy = CoordinatorCore.restore(PROTOCOL, run, kept)


def check(state: CoordinatorState) -> None:
    for name, member in state.roster.members.items():
        life = state.lives[member.incarnation]
        assert (life.learner, life.ending) == (name, "")
        assert life.floor == min(life.through)
    assert all(lease.incarnation in state.lives for lease in state.leases.held.values())
    assert state.trained >= max([life.tokens for life in state.lives.values()], default=0)


def test_the_work_per_report_does_not_grow_with_the_number_of_learners() -> None:
    office = Office()
    office.begin()
    lives = {f"learner-{number}": office.join(f"learner-{number}") for number in range(200)}
    for name, life in lives.items():
        office.report(name, life, 1, 10)
    entries = len(office.core.state.roster.heap)
    for step in range(2, 50):
        for name, life in lives.items():
            assert office.report(name, life, step, step * 10) == []
    assert len(office.core.state.roster.heap) == entries
