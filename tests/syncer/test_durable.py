"""A run's first record, where the disk was full when it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.store.courtesy import LOCK_FILE
from atoll.store.errors import DiskFull, RunExists
from atoll.store.faults import Faults, FaultyDisk
from atoll.store.store import StoreConfig
from atoll.syncer.durable import CHARTER, CharterRecord, Keeper
from syncer.lagoon import RUN

CONFIG = StoreConfig()
NUMBERS = {"H": 4}


class _NoLog(FaultyDisk):
    """Room for the first manifest, none for the log."""

    def create(self, path: Path) -> int:
        if path.suffix == ".log":
            self.faults.room_bytes = 0
        return super().create(path)


def test_a_run_without_room_for_its_charter_gets_it_when_it_goes_on(tmp_path: Path) -> None:
    disk = _NoLog(tmp_path / "graveyard", Faults())
    with pytest.raises(DiskFull):
        Keeper.begin(tmp_path, RUN, NUMBERS, CONFIG, disk)
    assert not (tmp_path / RUN / LOCK_FILE).exists(), "the store was closed"
    with pytest.raises(RunExists, match="continue it"):
        Keeper.begin(tmp_path, RUN, NUMBERS, CONFIG)
    for _ in range(2):
        with Keeper.take_over(tmp_path, RUN, NUMBERS, CONFIG, 0).store as store:
            (record,) = store.recover().records()
            assert record.kind == CHARTER and record.decode(CharterRecord).numbers == NUMBERS
