"""A disk that is full when it is told so, a torn file, and what the store makes of them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from atoll.chaos.tear import tear_log, tear_snapshot
from atoll.store.errors import DiskFull
from atoll.store.orders import DISK_FULL, DiskOnOrders, clock_order
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


def test_the_wall_clock_of_one_process_jumps_while_there_is_the_order(tmp_path: Path) -> None:
    """In a process of its own: the clock of this one stays right."""
    program = (
        "import sys, pathlib, time; from atoll.store.orders import jump_on_orders\n"
        "jump_on_orders(pathlib.Path(sys.argv[1]), 'island-1')\n"
        "for line in sys.stdin: print(time.time(), time.time_ns(), time.monotonic(), flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        jumps = []
        for order in ("", "3600.0", "-86400", "half a num", ""):
            if order:
                clock_order(tmp_path, "island-1").write_text(order)
            else:
                clock_order(tmp_path, "island-1").unlink(missing_ok=True)
            clock_order(tmp_path, "island-2").write_text("5000")
            process.stdin.write("now\n")
            process.stdin.flush()
            time_s, time_ns, monotonic_s = map(float, process.stdout.readline().split())
            assert abs(time_ns / 1e9 - time_s) < 60
            assert abs(monotonic_s - time.monotonic()) < 60
            jumps.append(round((time_s - time.time()) / 3600))
        process.stdin.close()
    assert jumps == [0, 1, -24, 0, 0]
