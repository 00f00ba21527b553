"""What a loop was given is acknowledged by its next step, and nothing that was only drawn."""

from __future__ import annotations

import random

from atoll.core.events import DataTaken
from atoll.core.hand import LeaseHand, Span
from atoll.core.messages import Granted


def granted(number: int, first: int, stop: int, turn: int = 0) -> Granted:
    return Granted(1, number, turn, first, stop, -1, str(first))


def hand_of(*leases: Granted) -> LeaseHand:
    hand = LeaseHand()
    hand.begin_life(1)
    for lease in leases:
        hand.take(lease)
    return hand


def test_prefetched_items_are_not_acknowledged() -> None:
    hand = hand_of(granted(1, 0, 10))
    first, second = hand.draw(4), hand.draw(4)
    hand.give(first)
    assert hand.acknowledge() == [DataTaken(1, "4", False)]
    assert hand.acknowledge() == [], "a step on nothing new tells nothing"
    hand.give(second)
    assert hand.acknowledge() == [DataTaken(1, "8", False)]


def test_a_batch_over_the_end_of_a_lease_tells_of_both() -> None:
    hand = hand_of(granted(1, 0, 3), granted(2, 90, 99))
    spans = hand.draw(5)
    assert spans == (Span(1, 0, 0, 3), Span(2, 0, 90, 92))
    hand.give(spans)
    assert hand.acknowledge() == [DataTaken(1, "3", True), DataTaken(2, "92", False)]
    assert [lease.number for lease in hand.held] == [2]


def test_room_for_the_next_lease_is_told_once_per_lease() -> None:
    hand = hand_of(granted(1, 0, 4))
    wants = []
    for _ in range(4):
        hand.give(hand.draw(1))
        hand.acknowledge()
        wants.append(hand.wants)
        hand.wants = False
    assert wants == [True, False, False, True]


def test_what_was_drawn_and_never_given_is_drawn_again() -> None:
    hand = hand_of(granted(1, 0, 6))
    hand.give(hand.draw(2))
    hand.draw(4)
    assert hand.num_items == 0
    hand.rewind()
    assert hand.draw(9) == (Span(1, 0, 2, 6),)


def test_a_new_life_holds_nothing_and_acknowledges_nothing_of_the_old() -> None:
    hand = hand_of(granted(1, 0, 6))
    spans = hand.draw(2)
    hand.begin_life(2)
    hand.give(spans)
    assert hand.acknowledge() == [] and hand.num_items == 0
    hand.take(granted(7, 0, 6))
    hand.begin_life(2)
    assert hand.num_items == 6, "the same life goes on"


def test_whatever_happens_told_follows_given_and_given_follows_drawn() -> None:
    for seed in range(50):
        dice, hand, told, number = random.Random(seed), hand_of(), 0, 0
        waiting: list[tuple[Span, ...]] = []
        given = 0
        for _ in range(100):
            match dice.choice(["take", "draw", "give", "step", "rewind"]):
                case "take":
                    number += 1
                    size = dice.randint(1, 6)
                    hand.take(granted(number, 10 * number, 10 * number + size))
                case "draw":
                    waiting.append(hand.draw(dice.randint(1, 5)))
                case "give" if waiting:
                    spans = waiting.pop(0)
                    hand.give(spans)
                    given += len([0 for span in spans for _ in range(span.first, span.stop)])
                case "step":
                    before = {lease.number: lease.told for lease in hand.held}
                    for taken in hand.acknowledge():
                        told += int(taken.position) - before[taken.lease]
                    assert told == given
                case "rewind":
                    hand.rewind()
                    waiting.clear()
