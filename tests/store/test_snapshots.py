"""Snapshots: safetensors that others can read, and nothing is loaded that was not written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atoll.store.disk import LocalDisk
from atoll.store.errors import SnapshotDamaged
from atoll.store.manifest import SnapshotRef
from atoll.store.snapshots import (
    load_snapshot,
    remove_leftovers,
    snapshot_name,
    tensor_bytes,
    write_snapshot,
)

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "momentum": torch.arange(5, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "empty": torch.empty(0, 7),
    "strided": torch.arange(6, dtype=torch.int64).reshape(2, 3).t(),
}


def written(directory: Path) -> SnapshotRef:
    name = snapshot_name(2, 9, 1)
    digest = write_snapshot(directory, name, TENSORS, {"version": 4}, 9, LocalDisk())
    return SnapshotRef(name, digest, 9, pinned=False)


def test_a_snapshot_comes_back_equal(tmp_path: Path) -> None:
    snapshot = load_snapshot(tmp_path, written(tmp_path))
    assert snapshot.state == b'{"version":4}'
    assert snapshot.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert snapshot.tensors[name].dtype == tensor.dtype
        assert torch.equal(snapshot.tensors[name], tensor)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    ref = written(tmp_path)
    loaded = load_file(tmp_path / f"{ref.name}.safetensors")
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


def test_the_same_state_has_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert written(tmp_path / "a").digest == written(tmp_path / "b").digest


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_every_damaged_byte_is_noticed(tmp_path: Path, suffix: str) -> None:
    ref = written(tmp_path)
    file = tmp_path / f"{ref.name}.{suffix}"
    whole = bytearray(file.read_bytes())
    for at in range(0, len(whole), 7):
        whole[at] ^= 4
        file.write_bytes(whole)
        with pytest.raises(SnapshotDamaged, match="digest"):
            load_snapshot(tmp_path, ref)
        whole[at] ^= 4
    file.write_bytes(whole[:-1])
    with pytest.raises(SnapshotDamaged, match="digest"):
        load_snapshot(tmp_path, ref)
    file.unlink()
    with pytest.raises(SnapshotDamaged, match="missing"):
        load_snapshot(tmp_path, ref)


def test_leftovers_are_removed_but_never_those_of_a_later_owner(tmp_path: Path) -> None:
    disk = LocalDisk()
    for epoch in (1, 2, 3):
        write_snapshot(tmp_path, snapshot_name(epoch, 9, 1), TENSORS, None, 9, disk)
    half = tmp_path / f".{snapshot_name(1, 9, 2)}.safetensors.tmp"
    half.touch()
    (tmp_path / "notes.txt").touch()
    kept = frozenset({snapshot_name(1, 9, 1)})
    notes = remove_leftovers(tmp_path, kept, 2, disk)
    names = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert names == {snapshot_name(1, 9, 1), snapshot_name(3, 9, 1), "notes"}
    assert len(notes) == 3 and str(half) in "".join(notes)


def test_a_dtype_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {"phase": torch.zeros(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"'phase'.*complex64"):
        write_snapshot(tmp_path, "x", tensors, None, 0, LocalDisk())
    assert not list(tmp_path.iterdir())


def test_bytes_of_a_tensor_are_not_a_copy() -> None:
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    view = tensor_bytes(tensor)
    tensor.fill_(1.0)
    assert bytes(view) == b"\x80\x3f" * 4
    with pytest.raises(ValueError, match="contiguous"):
        tensor_bytes(TENSORS["strided"])
