"""Data over a whole run in virtual time: nothing is lost, repeats are counted, nobody starves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.core.leases import LeaseBook
from atoll.simulator.learner_node import ITEMS_PER_STEP
from pair import FAST, ROUGH, Run, sail

ITEMS = 300
DATA: dict[str, Any] = {"dataset_items": ITEMS, "lease_items": 20, "lease_s": 20.0}


def book_of(run: Run) -> LeaseBook:
    return run.world.coordinator.core.state.leases


def first_pass_is_over(run: Run) -> bool:
    """Every piece of the first pass is done: merged into every fragment."""
    book = book_of(run)
    ahead = [*(lease.turn for lease in book.held.values()), *(turn for turn, _, _ in book.returned)]
    return book.turn > 0 and 0 not in ahead


def unmerged_items(run: Run) -> list[int]:
    """Indices of the first pass that no life has trained and then merged into every fragment."""
    watch, fragments = run.world.watch, range(run.world.settings.P)

    def is_merged(index: int) -> bool:
        return any(
            all(watch.spans.get((name, life, p), 0) >= tokens for p in fragments)
            for name, life, tokens in watch.items.get((0, index), [])
        )

    return [index for index in range(ITEMS) if not is_merged(index)]


def times_trained(run: Run, turn: int = 0) -> list[int]:
    return [len(run.world.watch.items.get((turn, index), [])) for index in range(ITEMS)]


def test_without_failures_every_item_of_a_pass_is_trained_once() -> None:
    run = sail([1.0, 1.3], run=DATA)
    run.until(lambda: first_pass_is_over(run), 300.0)
    assert times_trained(run) == [1] * ITEMS
    assert unmerged_items(run) == []
    assert book_of(run).repeats == 0
    steps = sum(node.step for node in run.world.learners.values())
    assert sum(node.repeats for node in run.world.learners.values()) <= 2 * ITEMS_PER_STEP, steps


def test_what_a_killed_learner_had_not_merged_is_trained_by_others() -> None:
    run = sail([1.0, 1.0, 1.0], run=DATA)
    run.at_rest()
    run.steps(14, "b")
    run["b"].kill()
    dead = [lease for lease in book_of(run).held.values() if lease.learner == "b"]
    assert any(lease.begun for lease in dead), "killed in the middle of a lease"
    run.until(lambda: first_pass_is_over(run), 400.0)
    by_b = [i for (turn, i), by in run.world.watch.items.items() if turn == 0 and by[0][0] == "b"]
    again = [i for i in by_b if any(n != "b" for n, _, _ in run.world.watch.items[0, i])]
    untold = len(again) - book_of(run).repeats
    assert again and 0 <= untold <= ITEMS_PER_STEP, "repeats are counted, save an untold last step"
    assert set(times_trained(run)) == {1, 2}
    assert unmerged_items(run) == []


@pytest.mark.parametrize("seed", range(3))
def test_under_many_failures_every_item_is_merged_by_somebody(seed: int) -> None:
    run = sail([1.0, 0.8, 1.2], ROUGH, DATA)
    run.world.dice.seed(seed)
    run.at_rest()
    for name in ("a", "b", "c"):
        run.steps(5, name)
        run[name].kill()
        run.world.coordinator.kill()
        run.go(3.0 + seed)
        run.world.start_syncer()
        run[name].start()
    run["a"].cut_link()
    run.go(30.0)
    run["a"].mend_link()
    run.until(lambda: first_pass_is_over(run), 600.0)
    assert unmerged_items(run) == []


def test_lost_grants_are_said_again() -> None:
    run = sail([1.0, 1.0], replace(FAST, loss=0.4), DATA)
    run.go(120.0)
    for node in run.world.learners.values():
        before = node.repeats
        run.until(lambda node=node: node.hand.num_items > 0, 30.0)  # type: ignore[misc]
        assert node.repeats - before < 30 * ITEMS_PER_STEP
    assert book_of(run).turn > 0 or book_of(run).next_index > 200


def test_a_cut_link_repeats_data_and_training_goes_on() -> None:
    run = sail([1.0, 1.0], run=DATA | {"lease_s": 1000.0})
    run.at_rest()
    run.go(10.0)
    repeats, steps = run["a"].repeats, run["a"].step
    run["a"].cut_link()
    run.go(8.0)
    assert run["a"].repeats == repeats, "two leases ahead last for a while"
    run.go(30.0)
    assert run["a"].step >= steps + 36
    repeats = run["a"].repeats
    assert repeats > ITEMS_PER_STEP * 10
    run["a"].mend_link()
    run.go(20.0)
    repeats = run["a"].repeats
    run.go(20.0)
    assert run["a"].repeats == repeats, "there are leases again"


def test_a_coordinator_that_forgot_positions_grants_on() -> None:
    """More leases are begun and not merged than positions are said again by themselves."""
    small = DATA | {"lease_items": ITEMS_PER_STEP, "lease_s": 1000.0}
    run = sail([1.0, 1.0], run=small, H=48, P=2)
    run.at_rest()
    run.go(34.0)
    assert len(book_of(run).held) > 20
    coordinator = run.world.coordinator
    coordinator.kept = coordinator.core.snapshot()
    coordinator.kept.leases = _without_positions(coordinator.kept.leases)
    coordinator.kill()
    run.world.start_syncer()
    run.go(15.0)
    repeats = [node.repeats for node in run.world.learners.values()]
    run.go(30.0)
    assert [node.repeats for node in run.world.learners.values()] == repeats, "somebody starves"
    run.until(lambda: first_pass_is_over(run), 600.0)
    assert unmerged_items(run) == []


def _without_positions(book: LeaseBook) -> LeaseBook:
    """Grants are durable records, positions are not: a restart may have one without the other."""
    for lease in book.held.values():
        lease.begun, lease.finished, lease.marks, lease.tokens = False, False, [], 0
        lease.reached = lease.safe
    return book
