"""Streams of the real `datasets` library through `learner.shards`: no row lost, none twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atoll.learner import Learner
from learner.test_shards import StreamingLagoon, join, lagoon, wait

__all__ = ["join", "lagoon"]  # fixtures

pytestmark = pytest.mark.heavy
datasets = pytest.importorskip("datasets")
ROWS, STREAMS, FILES = 48, 2, 4
SIZE = 3


def made_of(how: str) -> Any:
    rows = datasets.Dataset.from_dict({"number": list(range(ROWS))})
    stream = rows.to_iterable_dataset(num_shards=FILES)
    if how == "plain":
        return stream
    mapped = stream.map(lambda row: {"square": row["number"] ** 2})
    return mapped.filter(lambda row: row["square"] == row["number"] ** 2).batch(SIZE)


def numbers(item: dict[str, Any]) -> list[int]:
    found = item["number"]
    return found if isinstance(found, list) else [found]


def read(learner: Learner, how: str, steps: int) -> Iterator[list[int]]:
    """One stream, a step after each item; left after so many steps (0: at its end)."""
    shard = next(learner.shards(STREAMS))
    assert not shard.is_repeat
    stream = made_of(how).shard(num_shards=STREAMS, index=shard.index)
    for number, item in enumerate(shard.read(stream), start=1):
        yield numbers(item)
        learner.step(tokens=SIZE)
        if number == steps:
            return
    learner.step(tokens=SIZE)


@pytest.mark.parametrize("how", ["plain", "mapped_filtered_and_batched"])
def test_a_stream_goes_on_in_another_life_with_the_very_next_row(
    lagoon: StreamingLagoon,  # the fixture
    join: Callable[[], Learner],
    how: str,
) -> None:
    stream = made_of(how).shard(num_shards=STREAMS, index=0)
    expected = [number for item in stream for number in numbers(item)]
    assert len(expected) == ROWS // STREAMS
    first = join()
    before = [number for item in read(first, how, 3) for number in item]
    wait(lambda: len(lagoon.positions) == 3)
    lease, position, finished = lagoon.positions[-1]
    assert lease == 1 and not finished and json.loads(position)
    first.close(0.0)
    lagoon.start, lagoon.granted, lagoon.told = position, {}, []
    after = [number for item in read(join(), how, 0) for number in item]
    assert before + after == expected
    wait(lambda: any(is_finished for _, _, is_finished in lagoon.positions))
