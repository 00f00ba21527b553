"""The ledger: every token of a life has one fate, whatever order things come in."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.core.ids import Cut, CutId
from atoll.core.ledger import FragmentLedger


def take(ledger: FragmentLedger, number: int, step: int) -> Cut:
    """A cut at a step, with ten tokens for each."""
    return ledger.cut(CutId("a", 1, number), 0, 0, 1, (step, 10 * step))


def test_a_cut_holds_all_work_since_the_origin() -> None:
    ledger = FragmentLedger()
    cut = take(ledger, 1, 4)
    assert (cut.first_token, cut.end_token, cut.steps, cut.tokens) == (0, 40, 4, 40)
    assert (ledger.in_flight, ledger.open(70)) == (40, 30)


def test_a_merged_cut_leaves_only_the_work_after_it_open() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    merged, settled = ledger.merge(1)
    assert settled == [merged]
    assert (ledger.merged, ledger.in_flight, ledger.open(70)) == (40, 0, 30)
    assert take(ledger, 2, 7).first_token == 40


def test_a_dropped_cut_is_open_again_and_stands_in_the_next_one() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    assert ledger.drop(1, "late") is not None
    assert (ledger.dropped, ledger.open(70)) == ({}, 70)
    assert take(ledger, 2, 7).tokens == 70


def test_a_cut_in_flight_when_its_work_was_given_up_can_still_be_merged() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    ledger.give_up(7, 70, "unmerged")
    assert (ledger.in_flight, ledger.dropped) == (40, {"unmerged": 30})
    ledger.merge(1)
    assert (ledger.merged, ledger.open(90)) == (40, 20)
    assert ledger.balance(90) == 0


def test_a_cut_in_flight_that_is_dropped_after_its_work_was_given_up_is_lost() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    ledger.give_up(7, 70, "unmerged")
    ledger.drop(1, "stale")
    assert ledger.dropped == {"unmerged": 30, "stale": 40}


def test_an_older_cut_that_stands_in_the_merged_one_is_counted_once() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    take(ledger, 2, 7)
    _, settled = ledger.merge(2)
    assert [cut.id.number for cut in settled] == [1, 2]
    assert (ledger.merged, ledger.dropped, ledger.balance(80)) == (70, {}, 0)


def test_a_newer_cut_is_void_when_the_older_one_was_merged() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    take(ledger, 2, 7)
    _, settled = ledger.merge(1)
    assert [cut.id.number for cut in settled] == [1, 2]
    assert (ledger.merged, ledger.in_flight, ledger.open(70)) == (40, 0, 30)


def test_at_the_end_of_a_life_whatever_has_no_fate_is_dropped() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    ledger.merge(1)
    cut = take(ledger, 2, 7)
    assert ledger.end(90, "died") == [cut]
    assert (ledger.merged, ledger.dropped, ledger.balance(90)) == (40, {"died": 50}, 0)


def test_what_is_not_outstanding_cannot_be_merged() -> None:
    ledger = FragmentLedger()
    take(ledger, 1, 4)
    ledger.drop(1, "late")
    with pytest.raises(AssertionError, match="outstanding"):
        ledger.merge(1)
    assert ledger.drop(1, "late") is None, "a fate told twice changes nothing"


# ---------------------------------------------------------------- against a list of all tokens


@dataclass
class Tokens:
    """Every token by itself: the fate it has, if any."""

    fate: list[str] = field(default_factory=list)
    cuts: dict[int, tuple[int, int]] = field(default_factory=dict)
    origin: int = 0

    def settle(self, first: int, end: int, fate: str) -> None:
        for token in range(first, end):
            if not self.fate[token]:
                self.fate[token] = fate

    def lost(self, code: str) -> None:
        """Before the origin only what stands in a cut can still have a fate to come."""
        for token in range(self.origin):
            held = any(first <= token < end for first, end in self.cuts.values())
            if not self.fate[token] and not held:
                self.fate[token] = code

    def merge(self, number: int) -> None:
        first, end = self.cuts[number]
        self.settle(first, end, "merged")
        if first >= self.origin:
            self.origin = end
        self.cuts.clear()
        self.lost("replaced")

    def give_up(self) -> None:
        self.origin = len(self.fate)
        self.lost("unmerged")

    def count(self, fate: str) -> int:
        return self.fate.count(fate)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "cut", "cut", "merge", "drop", "give_up"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_any_order_of_events_gives_every_token_the_fate_that_a_list_of_them_has(
    actions: list[tuple[str, int]],
) -> None:
    ledger, tokens, number = FragmentLedger(), Tokens(), 0
    for action, choice in actions:
        open_cuts = [cut.id.number for cut in ledger.outstanding]
        chosen = open_cuts[choice % len(open_cuts)] if open_cuts else 0
        step = len(tokens.fate)
        if action == "step":
            tokens.fate.append("")
        elif action == "cut" and step > ledger.origin:
            number += 1
            ledger.cut(CutId("a", 1, number), 0, 0, 1, (step, step))
            tokens.cuts[number] = (tokens.origin, step)
        elif action == "merge" and chosen:
            ledger.merge(chosen)
            tokens.merge(chosen)
        elif action == "drop" and chosen:
            ledger.drop(chosen, "late")
            del tokens.cuts[chosen]
            tokens.lost("late")
        elif action == "give_up":
            ledger.give_up(step, step, "unmerged")
            tokens.give_up()
        compare(ledger, tokens)


def compare(ledger: FragmentLedger, tokens: Tokens) -> None:
    position = len(tokens.fate)
    assert ledger.balance(position) == 0
    assert ledger.merged == tokens.count("merged")
    for code in ("late", "replaced", "unmerged"):
        assert ledger.dropped.get(code, 0) == tokens.count(code)
    in_cuts = [
        token
        for token in range(position)
        if any(first <= token < end for first, end in tokens.cuts.values())
    ]
    assert ledger.in_flight == len(in_cuts)
    assert ledger.open(position) == tokens.count("") - len(in_cuts)
