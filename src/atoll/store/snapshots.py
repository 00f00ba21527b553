"""Full snapshots: tensors as a safetensors file, state as JSON, one digest for both.

`NAME.safetensors` is streamed (never a second copy in memory), then `NAME.json` with the caller's
state and the digest of the tensors; both under temporary names, fsynced, renamed. The digest of
the state file is the snapshot's identity. Must never return bytes that do not have their digest.
A snapshot counts once a manifest names it; anything else in the directory is a leftover.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from atoll.store.disk import Buffer, Disk, disk_errors, read_errors, write_file
from atoll.store.errors import DiskFull, SnapshotDamaged
from atoll.store.manifest import SnapshotRef

FORMAT = 1
SLICE_BYTES = 8 << 20
_NAME = re.compile(r"^\.?(e(\d{6,})-l\d{12,}-n\d{4,})\.(?:safetensors|json)(?:\.tmp)?\Z")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    upto_lsn: int
    tensors_sha256: str
    state: msgspec.Raw
    format: int = FORMAT


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot held. `state` is JSON; decode it with the type it was written from."""

    ref: SnapshotRef
    tensors: dict[str, torch.Tensor]
    state: bytes


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy; valid while the tensor lives."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError("only a contiguous CPU tensor has bytes to write; copy it there first")
    num_bytes = tensor.numel() * tensor.element_size()
    if num_bytes == 0:
        return memoryview(b"")
    array = (ctypes.c_ubyte * num_bytes).from_address(tensor.data_ptr())
    return memoryview(array).cast("B")


def snapshot_name(epoch: int, upto_lsn: int, serial: int) -> str:
    """File name stem; `serial` tells snapshots of one epoch at one LSN apart."""
    return f"e{epoch:06d}-l{upto_lsn:012d}-n{serial:04d}"


def snapshot_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Room the tensors take on disk, give or take the header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def write_snapshot(
    directory: Path,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    state: object,
    upto_lsn: int,
    disk: Disk,
) -> str:
    """Write both files durably and return the digest. The tensors must not change meanwhile."""
    raw_state = msgspec.Raw(msgspec.json.encode(state))
    file = _TensorFile(tensors)
    with disk_errors(disk, directory, snapshot_bytes(tensors)):
        _write_renamed(disk, directory / f"{name}.safetensors", file.chunks())
        text = msgspec.json.encode(_State(upto_lsn, file.digest.hexdigest(), raw_state))
        _write_renamed(disk, directory / f"{name}.json", iter([text]))
        disk.fsync_dir(directory)
    return hashlib.sha256(text).hexdigest()


def load_snapshot(directory: Path, ref: SnapshotRef) -> Snapshot:
    """The snapshot a manifest names, or `SnapshotDamaged` if a byte of it is not as written."""
    state_path = directory / f"{ref.name}.json"
    tensors_path = directory / f"{ref.name}.safetensors"
    text = _read_present(state_path)
    if hashlib.sha256(text).hexdigest() != ref.digest:
        raise SnapshotDamaged(state_path, 0, "its bytes do not have the digest the manifest names")
    try:
        state = msgspec.json.decode(text, type=_State)
    except msgspec.DecodeError as error:
        raise SnapshotDamaged(state_path, 0, f"not of format {FORMAT}: {error}") from error
    if not tensors_path.exists():
        raise SnapshotDamaged(tensors_path, 0, "the file is missing")
    with read_errors(tensors_path):
        with tensors_path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != state.tensors_sha256:
            raise SnapshotDamaged(tensors_path, 0, "its bytes do not have the digest it was given")
        tensors = _load_tensors(tensors_path)
    return Snapshot(ref, tensors, bytes(state.state))


def refuse_if_too_large(
    directory: Path, tensors: Mapping[str, torch.Tensor], reserve_bytes: int, disk: Disk
) -> None:
    """Raise `DiskFull` before a snapshot takes the room that the log needs to go on."""
    needed_bytes = snapshot_bytes(tensors) + reserve_bytes
    with read_errors(directory):
        free_bytes = disk.free_bytes(directory)
    if free_bytes < needed_bytes:
        raise DiskFull(directory, needed_bytes, free_bytes)


def remove_leftovers(
    directory: Path, keep: frozenset[str], upto_epoch: int, disk: Disk
) -> list[str]:
    """Remove files of epochs up to `upto_epoch` that belong to no snapshot in `keep`."""
    notes = []
    with read_errors(directory):
        paths = sorted(directory.iterdir())
    for path in paths:
        match = _NAME.match(path.name)
        if match is None or match[1] in keep or int(match[2]) > upto_epoch:
            continue
        with disk_errors(disk, path), suppress(FileNotFoundError):
            disk.unlink(path)
            notes.append(f"removed {path}: no manifest names it")
    return notes


def _write_renamed(disk: Disk, path: Path, chunks: Iterator[Buffer]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    write_file(disk, temporary, chunks)
    disk.rename(temporary, path)


class _TensorFile:
    """A safetensors file in slices: header size, header, tensors in the header's order."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise ValueError(f"tensor {name!r}: a snapshot cannot hold {tensor.dtype}")
        # Wide types first keeps every tensor aligned to its own type, as the format asks.
        self._names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        self._tensors = tensors
        self.digest = hashlib.sha256()

    def chunks(self) -> Iterator[Buffer]:
        """Every slice once; `digest` then covers them all."""
        for chunk in self._plain():
            self.digest.update(chunk)
            yield chunk

    def _plain(self) -> Iterator[Buffer]:
        header = self._header()
        yield len(header).to_bytes(8, "little") + header
        for name in self._names:
            # Kept in a name of its own: the view does not keep a temporary copy alive.
            tensor = self._tensors[name].detach().cpu().contiguous()
            view = tensor_bytes(tensor)
            for start in range(0, len(view), SLICE_BYTES):
                yield view[start : start + SLICE_BYTES]

    def _header(self) -> bytes:
        entries: dict[str, object] = {}
        at = 0
        for name in self._names:
            tensor = self._tensors[name]
            end = at + tensor.numel() * tensor.element_size()
            entries[name] = {
                "dtype": _DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = msgspec.json.encode(entries)
        return text + b" " * (-len(text) % 8)


def _read_present(path: Path) -> bytes:
    if not path.exists():
        raise SnapshotDamaged(path, 0, "the file is missing")
    with read_errors(path):
        return path.read_bytes()


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Owned copies: a mapping would keep the space of a removed snapshot taken."""
    try:
        mapped = load_file(path)
    except SafetensorError as error:
        raise SnapshotDamaged(path, 0, f"not a safetensors file: {error}") from error
    return {name: mapped.pop(name).clone() for name in sorted(mapped)}
