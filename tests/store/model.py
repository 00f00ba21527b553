"""What a store is compared with: a plain list of values that were acknowledged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from atoll.store.faults import FaultyDisk
from atoll.store.recovery import Recovered
from atoll.store.store import Store, StoreConfig

RUN = "reef"
KIND = 7
SMALL = StoreConfig(segment_bytes=400, reserve_bytes=0)


class Value(msgspec.Struct):
    value: int


def payloads_of(value: int) -> list[bytes]:
    return [bytes([value % 256]) * (1 + value % 90), b"", value.to_bytes(8, "little")]


def commit(store: Store, value: int) -> int:
    return store.commit_record(KIND, Value(value), payloads_of(value))


def snapshot(store: Store, values: list[int], pinned: bool = False) -> None:
    """A snapshot that holds `values`, which must be all that was acknowledged.

    Each value stands for ten tokens.
    """
    tensors = {
        "values": torch.tensor(values, dtype=torch.int64),
        "half": torch.tensor(values, dtype=torch.float32).to(torch.bfloat16),
    }
    tokens = 10 * len(values)
    store.commit_snapshot(tensors, {"values": values}, store.last_lsn, tokens, pinned)


def values_in(recovered: Recovered) -> list[int]:
    """The values a recovery comes to; every byte of them is checked."""
    state = msgspec.json.decode(recovered.state)
    values: list[int] = state["values"] if state else []
    if state:
        assert recovered.tensors["values"].tolist() == values
    for record in recovered.records():
        value = record.decode(Value).value
        assert record.kind == KIND
        assert [bytes(payload) for payload in record.payloads] == payloads_of(value)
        values.append(value)
    assert len(values) == recovered.last_lsn
    return values


def faulty(tmp_path: Path, **faults: object) -> FaultyDisk:
    graveyard = tmp_path / "graveyard"
    graveyard.mkdir(exist_ok=True)
    disk = FaultyDisk(graveyard)
    for name, value in faults.items():
        setattr(disk.faults, name, value)
    return disk
