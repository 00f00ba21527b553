"""Inner optimizer state of one fragment as bytes: a safetensors body, held against the layout.

An entry is named `key/row/tensor` (`exp_avg/0/blocks.0.weight`) and holds the fragment's rows, from
`row` on, of a state tensor of the parameter's own shape, or a scalar. Nothing else is taken: other
shapes, more than `MOST_TENSORS` for one parameter, names outside the fragment, gaps or overlaps are
refused, and how large a body may be follows from the layout. Standard library only; reads no
values.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from atoll.fragments.layout import Layout

MOST_TENSORS = 4
"""State tensors of a parameter's shape."""
MOST_SCALARS = 4
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
TENSOR_DTYPES = ("F64", "F32", "F16", "BF16")
LARGEST_ITEM_BYTES = 4
"""On average over a parameter's state tensors: two of 8 bytes, or four of 4."""
ENTRY_BYTES = 300
"""Most of an entry in the header, beside its name."""
_LENGTH = struct.Struct("<Q")
_NAME = re.compile(r"([A-Za-z0-9_]{1,64})/(0|[1-9][0-9]{0,17})/(.+)\Z", re.DOTALL)


class InnerStateError(ValueError):
    """Inner state that cannot be lent or taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One state tensor's rows, or a scalar, at `start` to `stop` of the body's data."""

    key: str
    row: int
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def name(self) -> str:
        """As it is called in the header."""
        return f"{self.key}/{self.row}/{self.tensor}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a body holds. `dtypes` are those of the donor's parameters, `plain` names the entries
    that were plain numbers, `data_at` is where the data begin.
    """

    entries: tuple[Entry, ...]
    dtypes: Mapping[str, str]
    plain: tuple[str, ...]
    data_at: int


def most_bytes(layout: Layout, fragment: int) -> int:
    """The largest body that a fragment's inner state may have."""
    pieces = layout.fragments[fragment].pieces
    names = [len(piece.name.encode()) for piece in pieces]
    data = MOST_TENSORS * LARGEST_ITEM_BYTES * layout.fragments[fragment].numel
    scalars = len(pieces) * MOST_SCALARS * 8
    return data + scalars + _most_header_bytes(names)


def _most_header_bytes(names: Sequence[int]) -> int:
    per_piece = MOST_TENSORS + MOST_SCALARS
    header = 4096
    for length in names:
        header += per_piece * (ENTRY_BYTES + 12 * length)
    return header


def header_of(contents: Contents) -> bytes:
    """The front of a body, up to where its data begin."""
    plain: dict[str, Any] = {
        "__metadata__": {
            "dtypes": json.dumps(dict(contents.dtypes)),
            "plain": json.dumps(list(contents.plain)),
        }
    }
    for each in contents.entries:
        plain[each.name] = {
            "dtype": each.dtype,
            "shape": list(each.shape),
            "data_offsets": [each.start, each.stop],
        }
    text = json.dumps(plain, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def contents_of(layout: Layout, fragment: int, body: memoryview | bytes) -> Contents:
    """What a body says it holds. Raises InnerStateError for anything that does not belong."""
    if len(body) > most_bytes(layout, fragment):
        raise InnerStateError(f"{len(body)} bytes are more than fragment {fragment} can have")
    plain, data_at = _header(bytes(body[:8]), body)
    metadata = plain.pop("__metadata__", {})
    try:
        dtypes, numbers = json.loads(metadata["dtypes"]), json.loads(metadata["plain"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InnerStateError(f"the header lacks its metadata: {error!r}") from error
    if not _is_text_table(dtypes) or not isinstance(numbers, list):
        raise InnerStateError("the header's metadata are not what they should be")
    entries = tuple(_entry(name, table) for name, table in plain.items())
    _check(layout, fragment, entries, len(body) - data_at)
    known = tuple(str(each) for each in numbers)
    return Contents(entries, dtypes, known, data_at)


def _header(front: bytes, body: memoryview | bytes) -> tuple[dict[str, Any], int]:
    if len(front) < _LENGTH.size:
        raise InnerStateError("a body is cut off before its header")
    (length,) = _LENGTH.unpack(front)
    data_at = _LENGTH.size + length
    if data_at > len(body):
        raise InnerStateError(f"a header of {length} bytes in a body of {len(body)}")
    try:
        plain = json.loads(bytes(body[_LENGTH.size : data_at]))
    except (ValueError, RecursionError) as error:
        raise InnerStateError(f"the header cannot be read: {type(error).__name__}") from error
    if not isinstance(plain, dict):
        raise InnerStateError("the header is no table")
    return plain, data_at


def _is_text_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _entry(name: str, table: object) -> Entry:
    named = _NAME.match(name)
    if named is None:
        raise InnerStateError(f"{name[:80]!r} is not key/row/tensor")
    if not isinstance(table, dict) or sorted(table) != ["data_offsets", "dtype", "shape"]:
        raise InnerStateError(f"the entry {name[:80]!r} is no tensor's")
    dtype, shape, offsets = table["dtype"], table["shape"], table["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise InnerStateError(f"{name[:80]!r} is of a kind that is not taken: {dtype!r:.20}")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise InnerStateError(f"{name[:80]!r} has no sizes")
    return Entry(named[1], int(named[2]), named[3], dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _check(layout: Layout, fragment: int, entries: Sequence[Entry], data_bytes: int) -> None:
    """Every entry is of a piece of the fragment, and together they fill the data exactly."""
    shapes = piece_shapes(layout, fragment)
    counts: dict[tuple[str, int, bool], int] = {}
    end = 0
    for each in sorted(entries, key=lambda e: (e.start, e.stop)):
        name, piece = each.name[:80], (each.tensor, each.row)
        if piece not in shapes:
            raise InnerStateError(f"{name!r} is not of fragment {fragment}")
        if each.shape not in ((), shapes[piece]):
            wanted = list(shapes[piece])
            raise InnerStateError(f"{name!r} has shape {list(each.shape)}, not {wanted} or []")
        if each.shape and each.dtype not in TENSOR_DTYPES:
            raise InnerStateError(f"{name!r} is {each.dtype}, not a floating kind")
        num_bytes = prod(each.shape) * ITEM_BYTES[each.dtype]
        if each.start != end or each.stop != end + num_bytes:
            raise InnerStateError(f"{name!r} does not lie where the one before it ends")
        end = each.stop
        kind = (*piece, bool(each.shape))
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > (MOST_TENSORS if each.shape else MOST_TENSORS + MOST_SCALARS):
            raise InnerStateError(f"{each.tensor[:80]!r} has too many state tensors")
    if end != data_bytes:
        raise InnerStateError(f"the entries fill {end} bytes of {data_bytes}")


def piece_shapes(layout: Layout, fragment: int) -> dict[tuple[str, int], tuple[int, ...]]:
    """The shape of each piece of a fragment, by tensor and first row."""
    shapes = {spec.name: spec.shape for spec in layout.tensors}
    return {
        (piece.name, piece.row_start): (piece.row_stop - piece.row_start, *shapes[piece.name][1:])
        if shapes[piece.name]
        else ()
        for piece in layout.fragments[fragment].pieces
    }
