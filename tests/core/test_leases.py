"""Leases: no index of a pass is ever lost, and what is done twice is counted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.core.leases import MOST_MARKS, NO_STREAM, Lease, LeaseBook, Stream


def book(items: int = 10, size: int = 4) -> LeaseBook:
    return LeaseBook(items, size)


def granted(leases: LeaseBook, life: int) -> Lease:
    lease = leases.grant(f"learner-{life}", life)
    assert lease is not None
    return lease


def piece(lease: Lease) -> tuple[int, int, int]:
    return lease.turn, lease.first, lease.stop


# ---------------------------------------------------------------- index ranges


def test_learners_get_different_pieces_and_a_new_pass_begins_at_the_end() -> None:
    leases = book(items=10, size=4)
    pieces = [piece(granted(leases, life)) for life in (1, 2, 1, 2)]
    assert pieces == [(0, 0, 4), (0, 4, 8), (0, 8, 10), (1, 0, 4)]


def test_a_lease_is_done_when_it_is_finished_and_all_of_it_is_merged() -> None:
    leases = book()
    lease = granted(leases, 1)
    assert leases.position(1, lease.number, 100, "2", finished=False) == ""
    assert leases.position(1, lease.number, 200, "4", finished=True) == ""
    assert leases.settle(1, 199) == []
    assert leases.settle(1, 200) == [lease.number]
    leases.finish(lease.number)
    assert leases.held == leases.by_life == {}
    assert leases.returned == []


def test_a_lease_returns_at_the_oldest_position_that_is_not_merged() -> None:
    leases = book(items=100, size=10)
    lease = granted(leases, 1)
    for tokens, at in ((100, "2"), (200, "5"), (300, "9")):
        leases.position(1, lease.number, tokens, at, finished=False)
    leases.settle(1, 250)
    assert leases.give_back(1) == 1
    assert leases.returned == [(0, 5, 10)]
    assert leases.repeats == 4


def test_a_returned_piece_is_granted_before_a_fresh_one() -> None:
    leases = book(items=100, size=10)
    first, second = granted(leases, 1), granted(leases, 2)
    leases.give_back(2)
    leases.give_back(1)
    assert piece(granted(leases, 3)) == piece(first)
    assert piece(granted(leases, 3)) == piece(second)
    assert piece(granted(leases, 3)) == (0, 20, 30)


def test_a_finished_lease_that_is_not_merged_returns_as_well() -> None:
    leases = book()
    lease = granted(leases, 1)
    leases.position(1, lease.number, 100, "4", finished=True)
    leases.give_back(1)
    assert leases.returned == [(0, 0, 4)]
    assert leases.repeats == 4


def test_a_finished_and_merged_lease_does_not_return() -> None:
    leases = book()
    lease = granted(leases, 1)
    leases.position(1, lease.number, 100, "4", finished=True)
    leases.settle(1, 100)
    leases.give_back(1)
    assert leases.returned == []
    assert leases.repeats == 0


def test_late_and_repeated_positions_change_nothing() -> None:
    leases = book()
    lease = granted(leases, 1)
    leases.position(1, lease.number, 100, "1", finished=False)
    leases.position(1, lease.number, 300, "3", finished=False)
    before = copy.deepcopy(leases)
    assert leases.position(1, lease.number, 200, "2", finished=False) == ""
    assert leases.position(1, lease.number, 300, "3", finished=False) == ""
    assert leases == before


@pytest.mark.parametrize(
    ("life", "tokens", "at", "finished"),
    [
        (2, 100, "2", False),
        (1, -1, "2", False),
        (1, 100, "two", False),
        (1, 100, "", False),
        (1, 100, "-1", False),
        (1, 100, "²", False),
        (1, 100, "9" * 5000, False),
        (1, 100, "5", False),
        (1, 100, "3", True),
    ],
)
def test_impossible_positions_are_refused(life: int, tokens: int, at: str, finished: bool) -> None:
    leases = book()
    lease = granted(leases, 1)
    before = copy.deepcopy(leases)
    assert leases.position(life, lease.number, tokens, at, finished) != ""
    assert leases == before


def test_what_waits_is_what_has_not_been_begun() -> None:
    leases = book()
    first, second = granted(leases, 1), granted(leases, 1)
    assert leases.waiting(1) == [first, second]
    leases.position(1, first.number, 10, "1", finished=False)
    assert leases.waiting(1) == [second]
    assert leases.waiting(2) == []


def test_many_positions_without_a_merge_stay_few_and_only_err_on_the_safe_side() -> None:
    leases = book(items=10_000, size=10_000)
    lease = granted(leases, 1)
    for index in range(1, 2001):
        leases.position(1, lease.number, index * 10, str(index), finished=False)
    assert len(leases.held[lease.number].marks) <= MOST_MARKS
    leases.settle(1, 15_000)
    assert 1400 < int(lease.safe) <= 1500


# ---------------------------------------------------------------- streams


def test_a_stream_goes_on_where_its_merged_part_ends() -> None:
    leases = LeaseBook(streams=[Stream(), Stream()])
    first, second = granted(leases, 1), granted(leases, 2)
    assert (first.stream, second.stream) == (0, 1)
    assert leases.grant("learner-3", 3) is None
    leases.position(1, first.number, 100, "file-1:70", finished=False)
    leases.position(1, first.number, 200, "file-2:10", finished=False)
    leases.settle(1, 150)
    leases.give_back(1)
    again = granted(leases, 3)
    assert (again.stream, again.start) == (0, "file-1:70")
    assert leases.stream_repeats == 1


def test_a_stream_that_is_done_begins_its_next_pass_after_the_others() -> None:
    leases = LeaseBook(streams=[Stream(), Stream()])
    first = granted(leases, 1)
    leases.position(1, first.number, 100, "the end", finished=True)
    assert leases.settle(1, 100) == [first.number]
    leases.finish(first.number)
    assert granted(leases, 1).stream == 1
    again = granted(leases, 1)
    assert (again.stream, again.turn, again.start) == (0, 1, "")


# ---------------------------------------------------------------- grants read back


def test_a_grant_read_back_takes_the_piece_out_of_wherever_it_is() -> None:
    leases = book(items=20, size=4)
    old = copy.deepcopy(leases)
    granted(leases, 1)
    granted(leases, 2)
    leases.give_back(1)
    records = [copy.deepcopy(each) for each in leases.held.values()]
    records.append(copy.deepcopy(granted(leases, 3)))
    for record in records:
        old.take_again(record)
    assert old.returned == leases.returned == []
    assert piece(granted(old, 4)) == piece(granted(leases, 4)) == (0, 8, 12)


def test_pieces_that_no_record_tells_of_are_granted_later() -> None:
    leases = book(items=20, size=4)
    for _ in range(3):
        granted(leases, 1)
    old = book(items=20, size=4)
    old.take_again(copy.deepcopy(leases.held[3]))
    assert old.returned == [(0, 0, 4), (0, 4, 8)]


# ---------------------------------------------------------------- at least once


@dataclass
class Worker:
    """A life that consumes its leases in order, and remembers at which token each index was."""

    life: int
    tokens: int = 0
    work: list[tuple[int, int, int]] = field(default_factory=list)
    at: dict[int, int] = field(default_factory=dict)


@dataclass
class Model:
    """What was really done, beside the book that says so, and the records a crash leaves."""

    book: LeaseBook
    workers: dict[int, Worker] = field(default_factory=dict)
    merged: dict[tuple[int, int], int] = field(default_factory=dict)
    consumed: int = 0
    kept: LeaseBook = field(default_factory=LeaseBook)
    records: list[tuple[str, Lease | int]] = field(default_factory=list)

    def grant(self, life: int) -> None:
        worker = self.workers.setdefault(life, Worker(life))
        lease = granted(self.book, life)
        worker.at[lease.number] = lease.first
        self.records.append(("grant", copy.deepcopy(lease)))

    def consume(self, life: int, count: int) -> None:
        worker = self.workers.get(life)
        if worker is None or not worker.at:
            return
        number = min(worker.at)
        lease = self.book.held[number]
        for _ in range(count):
            if worker.at[number] == lease.stop:
                break
            worker.tokens += 7
            worker.work.append((worker.tokens, lease.turn, worker.at[number]))
            worker.at[number] += 1
            self.consumed += 1
        at = worker.at[number]
        if at > lease.first:
            wrong = self.book.position(life, number, worker.tokens, str(at), at == lease.stop)
            assert wrong == ""
        if at == lease.stop:
            del worker.at[number]

    def settle(self, life: int, share: int) -> None:
        worker = self.workers.get(life)
        if worker is None:
            return
        tokens = worker.tokens * share // 4
        for at, turn, index in worker.work:
            if at <= tokens:
                self.merged[turn, index] = self.merged.get((turn, index), 0) + 1
        worker.work = [each for each in worker.work if each[0] > tokens]
        for number in self.book.settle(life, tokens):
            self.book.finish(number)
            self.records.append(("done", number))

    def go(self, life: int) -> None:
        if self.workers.pop(life, None) is not None:
            self.book.give_back(life)
            self.records.append(("gone", life))

    def keep(self) -> None:
        self.kept, self.records = copy.deepcopy(self.book), []

    def crash(self) -> None:
        self.book = copy.deepcopy(self.kept)
        for kind, what in self.records:
            if isinstance(what, Lease):
                self.book.take_again(copy.deepcopy(what))
            elif kind == "done":
                self.book.finish(what)
            else:
                self.book.give_back(what)

    def drain(self) -> None:
        """Everybody goes; one last life does all that is left of the passes begun."""
        for life in sorted(self.workers):
            self.go(life)
        last = 1_000_000
        while self.book.returned or self.book.next_index:
            self.grant(last)
            while self.workers[last].at:
                self.consume(last, 5)
        if last in self.workers:
            self.settle(last, 4)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "consume", "consume", "settle", "go", "keep", "crash"]),
        st.integers(1, 4),
        st.integers(0, 4),
    ),
    max_size=120,
)


def play(actions: list[tuple[str, int, int]], items: int, size: int, crashes: bool) -> Model:
    model = Model(book(items, size))
    model.keep()
    lives = {slot: slot for slot in range(1, 5)}
    for action, slot, count in actions:
        life = lives[slot]
        if action == "grant":
            model.grant(life)
        elif action == "consume":
            model.consume(life, count)
        elif action == "settle":
            model.settle(life, count)
        elif action == "go":
            model.go(life)
            lives[slot] += 4
        elif crashes:
            getattr(model, action)()
    model.drain()
    return model


def missing(model: Model) -> list[tuple[int, int]]:
    every = [(turn, at) for turn in range(model.book.turn) for at in range(model.book.items)]
    return [each for each in every if each not in model.merged]


@given(ACTIONS, st.integers(1, 17), st.integers(1, 6))
def test_every_index_of_every_pass_is_merged_and_repeats_are_counted(
    actions: list[tuple[str, int, int]], items: int, size: int
) -> None:
    model = play(actions, items, size, crashes=False)
    assert missing(model) == []
    assert model.consumed - model.book.turn * items == model.book.repeats


@given(ACTIONS, st.integers(1, 17), st.integers(1, 6))
def test_a_crash_that_forgets_positions_loses_no_index(
    actions: list[tuple[str, int, int]], items: int, size: int
) -> None:
    model = play(actions, items, size, crashes=True)
    assert missing(model) == []
    assert model.book.held == {}


def test_an_index_range_is_no_stream() -> None:
    assert granted(book(), 1).stream == NO_STREAM
