"""The visiting order is a bijection at every size, and the same everywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.train.order import EpochOrder, Permutation


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 600), seed=st.integers(0, 2**63 - 1))
def test_permutation_is_a_bijection(size: int, seed: int) -> None:
    permutation = Permutation(size, seed)
    assert sorted(permutation.at(index) for index in range(size)) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(10**9, 10**12), data=st.data())
def test_a_huge_permutation_costs_no_memory_and_stays_in_range(
    size: int, data: st.DataObject
) -> None:
    permutation = Permutation(size, 7)
    places = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=20))
    items = [permutation.at(place) for place in places]
    assert all(0 <= item < size for item in items)
    assert len(set(items)) == len(items)


def test_the_order_is_fixed_across_versions() -> None:
    """A change here changes the data order of every run that is resumed: do it on purpose."""
    permutation = Permutation(10, seed=1)
    assert [permutation.at(index) for index in range(10)] == GOLDEN_ORDER


def test_seeds_give_different_orders() -> None:
    orders = {tuple(Permutation(64, seed).at(index) for index in range(64)) for seed in range(50)}
    assert len(orders) == 50


def test_every_item_is_equally_likely_in_first_place() -> None:
    counts = [0] * 10
    for seed in range(5000):
        counts[Permutation(10, seed).at(0)] += 1
    chi_squared = sum((count - 500) ** 2 / 500 for count in counts)
    assert chi_squared < 27.9  # 9 degrees of freedom, one in a thousand


def test_neighbours_do_not_stay_neighbours() -> None:
    permutation = Permutation(10_000, seed=3)
    items = [permutation.at(index) for index in range(1000)]
    near = sum(abs(a - b) < 100 for a, b in itertools.pairwise(items))
    assert near < 50  # 2 % by chance


def test_each_epoch_visits_everything_once_in_a_new_order() -> None:
    order = EpochOrder(50, seed=0)
    first = [order.at(position) for position in range(50)]
    second = [order.at(position) for position in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize("index", [-1, 5])
def test_a_place_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=r"outside range\(5\)"):
        Permutation(5, 0).at(index)


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, 0)


GOLDEN_ORDER = [0, 7, 3, 2, 1, 6, 5, 9, 4, 8]
