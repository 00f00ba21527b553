"""An island's inner optimizer state: copies of a fragment's part, and what is put in its place.

State belongs to a parameter by the parameter's identity, and travels under its canonical name. What
travels is what `optimizer.state` holds of a parameter's own shape, and numbers; never the groups'
settings, which are this island's own. An optimizer that keeps state of other shapes lends none.

`InnerCopy.take` runs in the training thread between two steps and does not wait: on a CUDA device
the copy is made on the current stream and goes to pinned memory on a side stream. `install` writes
nothing before all of it is known to fit; it is for `join` alone, before the first step.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.ferry.staging import Event, new_event
from atoll.fragments import Layout
from atoll.fragments.inner import (
    ITEM_BYTES,
    MOST_SCALARS,
    MOST_TENSORS,
    Contents,
    Entry,
    InnerStateError,
    contents_of,
    header_of,
    most_bytes,
)
from atoll.fragments.pieces import Piece
from atoll.fragments.raw_bytes import byte_view

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PLAIN = {int: ("I64", "<q"), float: ("F64", "<d")}
DECIDING = ("amsgrad", "centered", "momentum")
"""Options of torch's optimizers on which it depends what state they keep."""
UNSTEPPED = "no step was made with its optimizer yet"


def kind_of(optimizers: Sequence[torch.optim.Optimizer]) -> str:
    """What has to agree between donor and heir: class names, and options that decide on state."""
    kinds = []
    for each in optimizers:
        options = [name for name in DECIDING if each.defaults.get(name)]
        kinds.append(f"{type(each).__name__}({','.join(options)})")
    return " ".join(kinds)[:200]


@dataclass(frozen=True, slots=True)
class Holder:
    """The optimizer and the group that a parameter is in."""

    parameter: Tensor
    optimizer: torch.optim.Optimizer
    group: Mapping[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """What the optimizer keeps of it; empty before its first step."""
        return self.optimizer.state.get(self.parameter) or {}

    @property
    def was_stepped(self) -> bool:
        """There is state; some optimizers have it from the beginning, with a count of zero."""
        state = self.state
        return bool(state) and float(state.get("step", 1)) > 0


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an entry's bytes come from."""

    entry: Entry
    holder: Holder
    stop_row: int

    def now(self) -> Any:
        """The value as it is now; rows of a tensor, or a number."""
        value = self.holder.state.get(self.entry.key)
        if isinstance(value, Tensor) and self.entry.shape:
            return value.detach()[self.entry.row : self.stop_row]
        return value


class InnerState:
    """Named tensors, the optimizers that train them, and a layout."""

    def __init__(
        self,
        layout: Layout,
        tensors: Mapping[str, Tensor],
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ):
        self.layout = layout
        by_id = {
            id(parameter): Holder(parameter, optimizer, group)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self.holders = {name: by_id[id(t)] for name, t in tensors.items() if id(t) in by_id}
        self.kind = kind_of(optimizers) if self.holders else ""

    @property
    def is_there(self) -> bool:
        """A step was made: there is state worth having."""
        return any(holder.was_stepped for holder in self.holders.values())

    # ------------------------------------------------------------ lending

    def plan(self, fragment: int) -> InnerCopy:
        """Take the memory for a copy of a fragment's state. Raises InnerStateError."""
        found = list(self._found(fragment))
        found.sort(key=lambda each: not each[3])  # what lies on a device comes first
        entries: list[Entry] = []
        sources: list[_Source] = []
        plain: list[str] = []
        device_bytes = end = 0
        for piece, key, value, on_device in found:
            shape, dtype, is_plain = _described(piece, key, value, self.holders[piece.name])
            start, end = end, end + ITEM_BYTES[dtype] * _numel(shape)
            entry = Entry(key, piece.row_start, piece.name, dtype, shape, start, end)
            entries.append(entry)
            sources.append(_Source(entry, self.holders[piece.name], piece.row_stop))
            plain += [entry.name] if is_plain else []
            device_bytes = end if on_device else device_bytes
        dtypes = {each[0].name: _dtype_of(self.holders[each[0].name]) for each in found}
        front = header_of(Contents(tuple(entries), dtypes, tuple(plain), 0))
        if len(front) + end > most_bytes(self.layout, fragment):
            raise InnerStateError(f"the state of fragment {fragment} takes {end} bytes")
        return InnerCopy(fragment, front, end, sources, device_bytes)

    def _found(self, fragment: int) -> Iterator[tuple[Piece, str, Any, bool]]:
        for piece in self.layout.fragments[fragment].pieces:
            holder = self.holders.get(piece.name)
            state = list(holder.state.items()) if holder is not None else []
            kept = [(key, value) for key, value in state if value is not None]
            if len(kept) > MOST_TENSORS + MOST_SCALARS:
                raise InnerStateError(f"{piece.name} has {len(kept)} entries of state")
            for key, value in kept:
                yield piece, str(key), value, isinstance(value, Tensor) and value.is_cuda

    # ------------------------------------------------------------ taking

    def fits(self, fragment: int, body: memoryview) -> None:
        """Raises InnerStateError unless a peer's state of a fragment can be taken here."""
        contents = contents_of(self.layout, fragment, body)
        for entry in contents.entries:
            if entry.tensor not in self.holders:
                raise InnerStateError(f"{entry.tensor} is in no optimizer here")
            values = _values(contents, entry, body)
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise InnerStateError(f"{entry.name} has values that are not finite")

    @torch.no_grad()
    def install(self, bodies: Mapping[int, memoryview]) -> int:
        """Put a peer's state in, all fragments of it; how many tensors it is. InnerStateError."""
        missing = [f for f in range(self.layout.num_fragments) if f not in bodies]
        if missing:
            raise InnerStateError(f"fragments {missing[:10]} are missing")
        fresh: dict[str, dict[str, Any]] = {}
        rows: dict[tuple[str, str], int] = {}
        for fragment, body in sorted(bodies.items()):
            self.fits(fragment, body)
            contents = contents_of(self.layout, fragment, body)
            for entry in contents.entries:
                state = fresh.setdefault(entry.tensor, {})
                self._put(state, contents, entry, body)
                if entry.shape:
                    key = (entry.tensor, entry.key)
                    rows[key] = rows.get(key, 0) + entry.shape[0]
        for (tensor, name), num_rows in rows.items():
            expected = self.holders[tensor].parameter.shape[0]
            if num_rows != expected:
                raise InnerStateError(f"{name} of {tensor} has {num_rows} of {expected} rows")
        for tensor, state in fresh.items():
            holder = self.holders[tensor]
            holder.optimizer.state[holder.parameter] = state
        return sum(len(state) for state in fresh.values())

    def _put(
        self, state: dict[str, Any], contents: Contents, entry: Entry, body: memoryview
    ) -> None:
        holder = self.holders[entry.tensor]
        values = _values(contents, entry, body)
        if entry.name in contents.plain:
            state[entry.key] = values.item()
            return
        parameter = holder.parameter
        dtype = values.dtype
        if entry.dtype == contents.dtypes.get(entry.tensor) and values.is_floating_point():
            dtype = parameter.dtype  # state in the donor's own precision comes in this island's
        if entry.shape:
            if entry.key not in state:
                state[entry.key] = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
            state[entry.key][entry.row : entry.row + entry.shape[0]].copy_(values)
            return
        on_host = entry.key == "step" and not (
            holder.group.get("fused") or holder.group.get("capturable")
        )
        device = torch.device("cpu") if on_host else parameter.device
        # a count of steps is kept in fp32 whatever the parameter is, as torch does
        state[entry.key] = values.to(device, values.dtype if entry.key == "step" else dtype)


class InnerCopy:
    """One fragment's inner state: memory, and what is copied into it at a boundary."""

    def __init__(
        self,
        fragment: int,
        front: bytes,
        data_bytes: int,
        sources: Sequence[_Source],
        device_bytes: int,
    ):
        self.fragment = fragment
        self._sources = sources
        device = next((s.holder.parameter.device for s in sources if device_bytes), None)
        whole = torch.empty(len(front) + data_bytes, dtype=torch.uint8, pin_memory=bool(device))
        whole.zero_()  # memory is really taken now, or a boundary would pay for each page
        whole[: len(front)] = torch.frombuffer(bytearray(front), dtype=torch.uint8)
        self._whole, self._data = whole, whole[len(front) :]
        self._there = torch.empty(device_bytes, dtype=torch.uint8, device=device)
        self._usable: Event | None = None
        self._done: Event | None = None
        if device is not None:
            self._usable, self._done = new_event(), new_event()
            self._usable.record(torch.cuda.current_stream(device))

    @torch.no_grad()
    def take(self, side: torch.cuda.Stream | None) -> bool:
        """Copy what is there at this boundary; False when it is not what was planned for."""
        if self._usable is not None:  # the memory was taken in another thread, on its stream
            torch.cuda.current_stream(self._there.device).wait_event(self._usable)
        for source in self._sources:
            entry, value = source.entry, source.now()
            target = self._data[entry.start : entry.stop]
            if isinstance(value, Tensor):
                if tuple(value.shape) != entry.shape or value.dtype != DTYPES[entry.dtype]:
                    return False
                if value.is_cuda:
                    target = self._there[entry.start : entry.stop]
                target.copy_(_bytes_of(value))
            elif type(value) in _PLAIN:
                packed = bytearray(struct.pack(_PLAIN[type(value)][1], value))
                target.copy_(torch.frombuffer(packed, dtype=torch.uint8))
            else:
                return False
        if self._done is not None:
            assert side is not None, "a CUDA island has a side stream"
            side.wait_stream(torch.cuda.current_stream(self._there.device))
            with torch.cuda.stream(side):
                self._data[: self._there.numel()].copy_(self._there, non_blocking=True)
                self._done.record(side)
        return True

    def body(self) -> memoryview:
        """The copy as bytes. Waits for the device: not for the training thread."""
        if self._done is not None:
            self._done.synchronize()
        return byte_view(self._whole)


def _bytes_of(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)


def _values(contents: Contents, entry: Entry, body: memoryview) -> Tensor:
    """An entry's values as a tensor of their own, in host memory."""
    start, stop = contents.data_at + entry.start, contents.data_at + entry.stop
    # a copy, for entries may lie anywhere and a view would keep the whole body
    raw = torch.frombuffer(bytearray(body[start:stop]), dtype=DTYPES[entry.dtype])
    return raw.reshape(entry.shape)


def _described(
    piece: Piece, key: str, value: Any, holder: Holder
) -> tuple[tuple[int, ...], str, bool]:
    """Shape of the rows, dtype, and whether it is a plain number. Raises InnerStateError."""
    if type(value) in _PLAIN:
        return (), _PLAIN[type(value)][0], True
    if not isinstance(value, Tensor) or value.dtype not in _NAMES:
        raise InnerStateError(f"{key} of {piece.name} is {type(value).__name__}, no tensor")
    if value.dim() == 0:
        return (), _NAMES[value.dtype], False
    if value.shape != holder.parameter.shape:
        shapes = f"{list(value.shape)}, the parameter {list(holder.parameter.shape)}"
        raise InnerStateError(f"{key} of {piece.name} has shape {shapes}: it cannot be cut by rows")
    rows = (piece.row_stop - piece.row_start, *value.shape[1:])
    return rows, _NAMES[value.dtype], False


def _numel(shape: tuple[int, ...]) -> int:
    numel = 1
    for size in shape:
        numel *= size
    return numel


def _dtype_of(holder: Holder) -> str:
    return _NAMES[holder.parameter.dtype]
