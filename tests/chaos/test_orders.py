"""A disk that is full when it is told so, a torn file, and what the store makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atoll.chaos.tear import tear_log, tear_snapshot
from atoll.store.errors import DiskFull
from atoll.store.orders import DISK_FULL, DiskOnOrders
from atoll.store.store import Store


def test_a_disk_is_full_while_there_is_the_order_and_nothing_is_lost(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.mkdir()
    disk = DiskOnOrders(orders)
    store = Store.create(tmp_path / "runs", "run", disk=disk)
    assert store.commit_record(1, {"before": 1}) == 1
    (orders / DISK_FULL).touch()
    assert disk.free_bytes(tmp_path) == 0
    with pytest.raises(DiskFull):
        store.commit_record(1, {"during": 1})
    (orders / DISK_FULL).unlink()
    assert store.commit_record(1, {"after": 1}) == 2
    store.close()
    records = list(Store.open(tmp_path / "runs", "run").recover().records())
    assert [record.lsn for record in records] == [1, 2]
    assert b"after" in records[1].metadata


def test_half_a_record_after_the_last_is_cut_off_and_said(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "run")
    for number in range(3):
        store.commit_record(1, {"number": number})
    assert "bytes of a record" in tear_log(tmp_path / "run")
    again = Store.open(tmp_path, "run")
    assert again.last_lsn == 3
    assert any("torn append" in note for note in again.notes)


def test_a_torn_snapshot_is_gone_around_and_never_two_are_torn(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "run")
    assert "only killed" in tear_snapshot(tmp_path / "run")
    for number in range(3):
        lsn = store.commit_record(1, {"number": number})
        store.commit_snapshot({"theta": torch.full((64,), float(number))}, {"at": number}, lsn)
    assert "is gone" in tear_snapshot(tmp_path / "run")
    assert "only killed" in tear_snapshot(tmp_path / "run")
    recovered = Store.open(tmp_path, "run").recover()
    assert recovered.snapshot_lsn == 2
    assert [record.lsn for record in recovered.records()] == [3]
    assert any("damaged snapshot" in note for note in recovered.notes)
