"""Inner optimizer state from a peer: who gives it, who takes it, and what goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.donors import WARM_STEPS, WINDOW
from atoll.core.ids import COORDINATOR, NO_TRANSFER, TransferId
from atoll.core.invariants import check_coordinator, check_learner
from atoll.simulator.world import Conditions, World
from core.test_coordinator import PROTOCOL, Office
from pair import HandLearner, of, refused, said, sail, sends

P = PROTOCOL.P


# ---------------------------------------------------------------- the coordinator


class Lenders(Office):
    """A run under way with learners a, b, ... at these steps, and z that has just come back."""

    def __init__(self, *steps: int):
        super().__init__()
        self.life = {name: self.join(name) for name in "abcdef"[: len(steps)]}
        self.begin()
        for (name, life), step in zip(self.life.items(), steps, strict=True):
            if step:
                self.report(name, life, step, 100 * step)
        first = next(iter(self.life))
        self(msg.Settled(0, 1, 100, ((first, self.life[first], 100),)))
        self.life["z"] = self.join("z")

    def __call__(self, event: object) -> list[fx.Effect]:
        effects = super().__call__(event)
        assert check_coordinator(self.core.state) == []
        return effects

    def ask(self, name: str = "z", attempt: int = 0, taken: int = 0, left_s: float = 30.0) -> None:
        self(msg.AskInner(name, self.life[name], "AdamW()", left_s, attempt, taken))

    def lends(self) -> list[tuple[str, int]]:
        """Whom the last events asked for which fragment."""
        return [(to[0], each.index) for to, each in sends(self.out, msg.LendInner)]

    @property
    def transfer(self) -> TransferId:
        return self.core.state.asks[self.life["z"]].transfer

    def arrive(self, index: int) -> list[fx.Effect]:
        return self(ev.InnerArrived(self.transfer, index, 640, "d"))


def test_the_donor_is_the_live_peer_with_the_most_steps() -> None:
    office = Lenders(100, 300, 300, 200)
    office.ask()
    assert office.lends() == [("b", 0)], "ties go by name"
    assert office.transfer == TransferId(office.life["z"], office.life["b"], 1)


def test_who_is_away_busy_or_new_itself_is_no_donor() -> None:
    office = Lenders(500, 400, WARM_STEPS - 1, WARM_STEPS)
    office(ev.Disconnected("a", office.life["a"], "cut"))
    office(msg.Beat("b", office.life["b"], 0.1, 0.0, (0,) * P, (), "evaluation"))
    office.ask()
    assert office.lends() == [("d", 0)]


def test_nobody_lends_to_two_at_once_and_who_waits_gets_the_donor_that_is_free_first() -> None:
    office = Lenders(100, 200)
    office.life["y"] = office.join("y")
    office.life["x"] = office.join("x")
    office.ask("z")
    office.ask("y")
    assert office.lends() == [("a", 0)]
    office.ask("x")
    assert not office.lends() and not said(office.out, msg.InnerNone), "it waits"
    office(msg.InnerOver("z", office.life["z"], office.transfer, "given_up", "late"))
    assert office.lends() == [("b", 0)]
    (lend,) = said(office.out, msg.LendInner)
    assert lend.transfer.heir == office.life["x"]


def test_fragments_are_asked_for_one_by_one_and_few_lie_with_the_syncer() -> None:
    office = Lenders(100)
    office.ask()
    attempt = office.transfer.attempt
    for index in range(WINDOW):
        assert office.lends() == [("a", index)]
        office.arrive(index)
        ((to, here),) = sends(office.out, msg.InnerHere)
        assert (to, here.index, here.donor) == (("z",), index, "a")
    assert not office.lends(), "the heir has taken none yet"
    office.ask(attempt=attempt, taken=1)
    assert office.lends() == [("a", WINDOW)]
    assert [each.upto for each in of(office.out, fx.ForgetInner)] == [1]
    for index in range(WINDOW, P):
        office.arrive(index)
        office.ask(attempt=attempt, taken=index + 1)
    assert not office.core.state.asks
    assert of(office.out, fx.ForgetInner)[-1].upto == P
    office.ask(attempt=attempt, taken=P)
    assert not office.core.state.asks, "its last word may come twice"


def test_what_was_lost_on_the_way_is_said_again_when_the_heir_asks_again() -> None:
    office = Lenders(100)
    office.ask()
    office.arrive(0)
    office.ask(attempt=office.transfer.attempt)
    assert [here.index for here in said(office.out, msg.InnerHere)] == [0]
    assert office.lends() == [("a", 1)]


def test_a_donor_that_refuses_is_followed_by_the_next_until_nobody_is_left() -> None:
    office = Lenders(100, 200)
    office.ask()
    office(msg.InnerOver("b", office.life["b"], office.transfer, "no_state", "no step yet"))
    assert office.lends() == [("a", 0)]
    assert [each.upto for each in of(office.out, fx.ForgetInner)] == [P]
    office(msg.InnerOver("z", office.life["z"], office.transfer, "unfit", "other keys"))
    ((to, none),) = sends(office.out, msg.InnerNone)
    assert (to, none.code) == (("z",), "nobody") and "a: other keys" in none.sentence


def test_a_donor_that_is_lost_on_the_way_is_followed_by_the_next_at_once() -> None:
    office = Lenders(100, 200)
    office.ask()
    office.arrive(0)
    office(ev.Disconnected("b", office.life["b"], "killed"))
    assert office.lends() == [("a", 0)], "from the beginning"
    assert office.transfer.attempt == 2


def test_a_donor_that_falls_silent_is_followed_by_the_next_after_its_deadline() -> None:
    office = Lenders(100, 200)
    office.ask()
    for name in ("a", "b", "z"):
        office.beat(name, office.life[name])
    effects = office.wait(PROTOCOL.silence_s - 0.1)
    assert not said(effects, msg.LendInner)
    for name in ("a", "b", "z"):
        office.beat(name, office.life[name])
    office.wait(0.2)
    assert office.lends() == [("a", 0)]


def test_the_deadline_of_the_heir_ends_everything_without_a_word_of_it() -> None:
    office = Lenders(100)
    office.ask(left_s=6.0)
    effects = office.wait(6.0)
    assert not office.core.state.asks
    assert [each.upto for each in of(effects, fx.ForgetInner)] == [P]


def test_a_donor_that_could_not_be_through_in_time_is_not_asked() -> None:
    office = Lenders(100)
    office.ask(left_s=P * 1.0 - 0.5)
    (none,) = said(office.out, msg.InnerNone)
    assert none.code == "nobody" and not office.lends()


def test_before_the_first_merge_there_is_nothing_to_take() -> None:
    office = Office()
    lives = {name: office.join(name) for name in "az"}
    office.begin()
    office.report("a", lives["a"], 50, 5000)
    office(msg.AskInner("z", lives["z"], "AdamW()", 30.0, 0, 0))
    assert [none.code for none in said(office.out, msg.InnerNone)] == ["first"]


def test_a_peer_that_may_come_back_is_waited_for_a_little() -> None:
    office = Lenders(100)
    office(ev.Disconnected("a", office.life["a"], "cut"))
    office.ask()
    assert not said(office.out, msg.InnerNone)
    office(ev.Connected("a", office.life["a"]))
    assert office.lends() == [("a", 0)]


def test_inner_state_that_nobody_asked_for_is_refused() -> None:
    office = Lenders(100, 200)
    office.ask()
    transfer = office.transfer
    assert office.core.awaits_inner(transfer, 0)
    for other in (
        replace(transfer, attempt=9),
        replace(transfer, donor=office.life["a"]),
        replace(transfer, heir=office.life["b"]),
    ):
        assert not office.core.awaits_inner(other, 0)
        assert refused(office.core, ev.InnerArrived(other, 0, 1, "d")) == "stale"
    assert not office.core.awaits_inner(transfer, 1), "only the next one"
    assert refused(office.core, ev.InnerArrived(transfer, 1, 1, "d")) == "stale"
    foreign = msg.InnerOver("a", office.life["a"], transfer, "no_state", "says a stranger")
    assert refused(office.core, foreign) == "stale"


def test_after_a_restart_the_heir_asks_again_under_a_new_name() -> None:
    office = Lenders(100)
    kept = office.core.snapshot()
    office.ask()
    before = office.transfer
    office.crash(kept)
    assert not office.core.state.asks
    for name in ("a", "z"):
        office(ev.Connected(name, office.life[name]))
    office.report("a", office.life["a"], 101, 10_100)
    office.ask(attempt=before.attempt, taken=2)
    assert office.lends() == [("a", 0)]
    assert office.transfer.attempt > before.attempt


# ---------------------------------------------------------------- the heir


class Heir(HandLearner):
    """A learner that joins and waits for inner state; its fragments are here already."""

    def __init__(self) -> None:
        super().__init__("z", joined=False, P=3)
        self(ev.RestoreAsked("AdamW()", 20.0))
        self(ev.JoinAsked("process-1"))
        self(ev.LinkUp(COORDINATOR))
        self(msg.Welcome(1, "z", 7, False, 1, True, "process-1"))
        (self.asked,) = said(self.out, msg.AskInner)
        self(ev.LinkUp("shard-0"))
        for fragment in range(3):
            self.publish(fragment, 4)
        self.boundary(0)

    def here(self, index: int, attempt: int = 1, donor: int = 2) -> list[fx.Effect]:
        return self(msg.InnerHere(1, TransferId(7, donor, attempt), f"d{donor}", index, 64, "d"))

    def fetched(self, index: int, attempt: int = 1, donor: int = 2) -> list[fx.Effect]:
        return self(ev.InnerFetched(TransferId(7, donor, attempt), index))

    @property
    def phase(self) -> str:
        return self.core.state.phase


def test_joining_waits_for_inner_state_and_is_busy_meanwhile() -> None:
    heir = Heir()
    assert (heir.asked.left_s, heir.asked.attempt, heir.asked.taken) == (20.0, 0, 0)
    assert heir.phase == "joining", "all parameters are there, inner state is not"
    heir.now_s += heir.settings.beat_s
    assert {beat.busy for beat in said(heir(ev.Tick()), msg.Beat)} == {"restoring inner state"}
    for index in range(3):
        assert [each.index for each in of(heir.here(index), fx.FetchInner)] == [index]
        heir.fetched(index)
    (inherit,) = of(heir.out, fx.Inherit)
    assert (inherit.transfer, inherit.donor) == (TransferId(7, 2, 1), "d2")
    assert [type(each) for each in heir.out][-2:] == [fx.Inherit, fx.Joined]
    assert said(heir.out, msg.AskInner)[-1].taken == 3, "so that the syncer lets go"
    assert heir.phase == "training" and check_learner(heir.core.state) == []


def test_an_heir_past_its_deadline_goes_on_without_and_says_so() -> None:
    heir = Heir()
    heir.here(0)
    heir.fetched(0)
    heir.now_s += 20.0
    effects = heir(ev.Tick())
    (inherit,) = of(effects, fx.Inherit)
    assert (inherit.donor, inherit.transfer, inherit.reason.code) == ("", NO_TRANSFER, "late")
    assert "1 of 3 fragments" in inherit.reason.sentence
    assert [over.code for over in said(effects, msg.InnerOver)] == ["given_up"]
    assert heir.phase == "training"
    assert refused(heir.core, msg.InnerHere(1, TransferId(7, 2, 1), "d2", 1, 64, "d")) == "unasked"


def test_another_donor_begins_anew_and_what_the_first_one_sent_comes_too_late() -> None:
    heir = Heir()
    heir.here(0)
    heir.fetched(0)
    heir.here(0, attempt=2, donor=3)
    assert heir.core.state.restore.taken == 0
    heir.fetched(0)
    assert heir.core.state.restore.taken == 0, "that was the first donor's"
    heir.fetched(0, attempt=2, donor=3)
    assert heir.core.state.restore.taken == 1
    late = msg.InnerHere(1, TransferId(7, 2, 1), "d2", 1, 64, "d")
    assert refused(heir.core, late) == "unasked"


def test_what_does_not_fit_asks_for_another_donor_and_a_broken_line_only_waits() -> None:
    heir = Heir()
    heir.here(0)
    failed = ev.InnerFetchFailed(TransferId(7, 2, 1), 0, "it broke", unfit=False)
    assert not said(heir(failed), msg.InnerOver)
    heir.here(0)
    assert of(heir.out, fx.FetchInner), "said again, fetched again"
    over = said(heir(replace(failed, unfit=True, why="other keys")), msg.InnerOver)
    assert [(each.code, each.why) for each in over] == [("unfit", "other keys")]


def test_the_syncer_says_that_nobody_gives_it_and_the_learner_joins_with_the_reason() -> None:
    heir = Heir()
    (inherit,) = of(heir(msg.InnerNone(1, "nobody", "nobody is there")), fx.Inherit)
    assert (inherit.donor, str(inherit.reason)) == ("", "nobody is there")
    assert heir.phase == "training"


def test_a_learner_that_was_not_told_to_asks_for_nothing() -> None:
    learner = HandLearner("z", joined=False)
    learner(ev.JoinAsked("process-1"))
    learner(ev.LinkUp(COORDINATOR))
    learner(msg.Welcome(1, "z", 7, False, 1, True, "process-1"))
    assert not said(learner.out, msg.AskInner)
    assert refused(learner.core, ev.RestoreAsked("AdamW()", 5.0)) == "unasked"


# ---------------------------------------------------------------- the donor


def test_a_donor_copies_what_it_is_asked_for_once_and_says_when_it_cannot() -> None:
    donor = HandLearner("a")
    lend = msg.LendInner(1, TransferId(7, 1, 1), "AdamW()", 0)
    assert [each.index for each in of(donor(lend), fx.CopyInner)] == [0]
    assert not of(donor(lend), fx.CopyInner), "it is under way"
    donor(ev.InnerSent(lend.transfer, 0))
    assert of(donor(lend), fx.CopyInner), "asked for again, for it was lost"
    effects = donor(ev.InnerNotSent(lend.transfer, 0, "no_state", "no step yet"))
    assert [over.code for over in said(effects, msg.InnerOver)] == ["no_state"]
    donor(lend)
    assert not said(donor(ev.InnerNotSent(lend.transfer, 0, "unwanted", "")), msg.InnerOver)


def test_a_donor_that_joins_or_leaves_refuses_and_another_life_is_not_meant() -> None:
    heir = Heir()
    lend = msg.LendInner(1, TransferId(9, 7, 3), "AdamW()", 0)
    assert [over.code for over in said(heir(lend), msg.InnerOver)] == ["away"]
    assert refused(heir.core, replace(lend, transfer=TransferId(9, 8, 3))) == "foreign"
    assert refused(heir.core, replace(lend, index=3)) == "foreign"


# ---------------------------------------------------------------- all together


def restoring(restore_s: float) -> World:
    """Four learners under way; d is killed, and comes back."""
    world = sail([1.0] * 4, conditions=Conditions(merge_s=0.02, restore_s=restore_s)).world
    world.run_for(60.0)
    world.relay.settled.clear()
    world.learners["d"].kill()
    world.run_for(5.0)
    world.learners["d"].start()
    return world


def test_a_learner_that_returns_takes_a_peers_inner_state_while_nobody_waits_for_it() -> None:
    world = restoring(30.0)
    steps = {name: node.step for name, node in world.learners.items()}
    began_s = world.clock.now_s
    world.run_for(8.0)
    assert world.relay.settled == {"peer": 1}
    assert world.learners["d"].core.state.phase == "training"
    for name in "abc":
        made = world.learners[name].step - steps[name]
        assert made >= world.clock.now_s - began_s - 1, "a donor makes every step"
    assert not world.relay.bodies, "nothing is left with the syncer"


def test_a_donor_killed_on_the_way_is_replaced_and_a_dead_syncer_costs_only_the_deadline() -> None:
    world = restoring(12.0)
    assert world.run_until(lambda: bool(world.coordinator.core.state.asks), 5.0)
    (ask,) = world.coordinator.core.state.asks.values()
    assert world.run_until(lambda: ask.arrived > 0, 5.0)
    world.learners[ask.donor].kill()
    world.run_for(10.0)
    assert world.relay.settled == {"peer": 1}

    world.learners["d"].kill()
    world.learners["d"].start()
    assert world.run_until(lambda: bool(world.coordinator.core.state.asks), 5.0)
    world.coordinator.kill()
    world.run_for(13.0)
    assert world.relay.settled == {"peer": 1, "late": 1}
    assert world.learners["d"].core.state.phase == "training"


@pytest.mark.parametrize("seed", range(3))
def test_all_killed_at_once_find_nobody_and_begin_anew(seed: int) -> None:
    world = sail([1.0] * 3, conditions=Conditions(seed, merge_s=0.02, restore_s=30.0)).world
    world.run_for(60.0)
    world.relay.settled.clear()
    for node in world.learners.values():
        node.kill()
    world.run_for(1.0)
    for node in world.learners.values():
        node.start()
    world.run_for(20.0)
    assert world.relay.settled == {"nobody": 3}
    assert {node.core.state.phase for node in world.learners.values()} == {"training"}
