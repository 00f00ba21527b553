"""Bodies on the simulated wire: sizes, queues, and what is counted."""

from __future__ import annotations

import pytest

from atoll.simulator.network import Link
from atoll.simulator.wire import BodySizes, Lane, Wire

SIZES = BodySizes(up=(10, 20), down=(30, 60), full=(100, 200), kept_increments=8)


def test_bulk_takes_delay_and_bytes_over_rate_in_each_direction() -> None:
    wire = Wire(lambda: Link(0.1, up_bytes_s=1e6, down_bytes_s=4e6, bulk_s=0.5), lambda: 7.0)
    assert wire.send_up_s(2_000_000) == pytest.approx(2.6)
    assert wire.send_down_s(2_000_000) == pytest.approx(1.1)
    free = Wire(lambda: Link(0.1), lambda: 7.0)
    assert free.send_up_s(10**12) == pytest.approx(0.1), "0 means no limit"


def test_a_body_waits_for_those_before_it_in_its_own_direction_only() -> None:
    lane = Lane(100.0)
    assert lane.send(0.0, 200) == pytest.approx(2.0)
    assert lane.send(1.0, 100) == pytest.approx(3.0)
    assert lane.send(9.0, 100) == pytest.approx(10.0)
    assert (lane.num_bytes, lane.num_bodies) == (400, 3)


def test_windows_hold_every_byte_where_it_passed() -> None:
    lane = Lane(100.0, window_s=1.0)
    lane.send(0.5, 200)
    lane.send(2.5, 40)
    assert lane.passed(0.0, 3.0) == pytest.approx([50, 100, 90])
    assert lane.passed(0.5, 2.9) == pytest.approx([100]), "only whole windows"


def test_a_learner_that_lags_is_sent_increments_until_a_full_copy_is_fewer_bytes() -> None:
    assert SIZES.contribution_bytes(1) == 20
    assert SIZES.news_bytes(0, -1, 5) == 100, "who holds nothing gets all"
    assert SIZES.news_bytes(0, 4, 5) == 30
    assert SIZES.news_bytes(0, 2, 5) == 90
    assert SIZES.news_bytes(0, 1, 5) == 100, "four increments are more than a copy"
    kept_two = BodySizes(down=(1,), full=(100,), kept_increments=2)
    assert kept_two.news_bytes(0, 0, 3) == 100, "increments that are no longer kept"
    assert BodySizes().news_bytes(0, -1, 5) == 0, "sizes that nobody told weigh nothing"
