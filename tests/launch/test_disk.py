"""The disk that a run is said to want follows what its settings keep."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.launch.disk import need_of
from atoll.runfile.settings import parse

PARAMS, STEP_S = 1_000_000, 0.5


def need(**service: Any) -> Any:
    plain: dict[str, Any] = {
        "uplink": "bf16",
        "run": {"run": "small", "budget_tokens": 1_000_000},
        "protocol": {"P": 4, "H": 8},
        "train": {"batch_size": 5, "model": {"context": 100}},
        "service": service,
    }
    return need_of(parse(plain), PARAMS, STEP_S)


def test_more_snapshots_take_more() -> None:
    usual = need()
    assert usual.num_snapshots == 3 and usual.payload_bytes == 0
    for more in (
        {"keep_snapshots": 4},
        {"keep_every_tokens": 500_000},
        {"pinned_snapshots": [1, 2]},
    ):
        found = need(**more)
        assert found.num_snapshots == 5
        assert found.total_bytes >= usual.total_bytes + 2 * usual.snapshot_bytes


def test_the_log_lasts_from_the_oldest_of_the_newest_snapshots_on() -> None:
    by_time, by_merges = need(snapshot_every_merges=10**6), need(snapshot_every_merges=1)
    assert by_time.log_bytes_per_snapshot == pytest.approx(600 * by_time.log_bytes_per_s)
    assert by_merges.log_bytes_per_snapshot == pytest.approx(PARAMS * 2 / 4)


def test_contributions_beside_the_tapes_are_a_model_so_many_steps() -> None:
    found = need(tape_payloads=True)
    steps = 1_000_000 / 500
    assert found.payload_bytes == steps / 8 * 2 * PARAMS
    assert "contributions beside the tapes" in found.sentence()
    assert found.total_bytes == need().total_bytes + found.payload_bytes
