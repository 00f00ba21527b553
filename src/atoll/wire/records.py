"""Events, effects, messages and states of the cores as plain values, exactly, and back.

For tapes and stores, which keep what we wrote ourselves: types are checked, limits are not. Two
forms: `pack` to msgpack for volume, `to_plain` to what JSON can hold for reading. Both keep whole
numbers, floats (infinities too), tuples and nested classes, and must never build anything but
the classes registered here.

JSON has no infinity, so `to_plain` writes it as `{"$float": "inf"}`. A learner's name cannot hold
a dollar sign, so no table of the cores looks like that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

import msgspec

from atoll.core import effects, events, messages
from atoll.core.coordinator_state import CoordinatorState, RunSettings
from atoll.core.effects import Send
from atoll.core.ids import Cut, CutId, Mark, TransferId
from atoll.core.learner_state import LearnerState
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings
from atoll.core.shard_state import ShardState


class RecordError(ValueError):
    """Not a record of this version of the program. The message says what does not fit."""


class _SendPacked(msgspec.Struct, array_like=True):
    to: tuple[str, ...]
    kind: str
    message: msgspec.Raw
    reason: Reason


def _classes(module: ModuleType) -> dict[str, type]:
    found = {
        name: each
        for name, each in vars(module).items()
        if is_dataclass(each) and isinstance(each, type) and each.__module__ == module.__name__
    }
    assert found, f"{module.__name__} holds no records"
    return found


MESSAGES = _classes(messages)
EVENTS = _classes(events)
EFFECTS = _classes(effects)
STATES: dict[str, type] = {
    each.__name__: each
    for each in (ShardState, CoordinatorState, LearnerState, ProtocolSettings, RunSettings)
}
IDS: dict[str, type] = {each.__name__: each for each in (Cut, CutId, Mark, TransferId)}
RECORDS: dict[str, type] = {**MESSAGES, **EVENTS, **EFFECTS, **STATES, **IDS}
assert len(RECORDS) == sum(map(len, (MESSAGES, EVENTS, EFFECTS, STATES, IDS))), "one kind, one name"

_encode = msgspec.msgpack.Encoder().encode
_unpack_send = msgspec.msgpack.Decoder(_SendPacked).decode
_unpackers: dict[str, Callable[[Any], Any]] = {}
_BAD = (msgspec.MsgspecError, UnicodeError, RecursionError)


def kind_of(record: object) -> str:
    """The name under which a record is kept."""
    kind = type(record).__name__
    if RECORDS.get(kind) is not type(record):
        raise RecordError(f"{type(record).__module__}.{kind} is not a record")
    return kind


# ---------------------------------------------------------------- msgpack


def packable(record: object) -> tuple[str, object]:
    """Kind and value to put into a larger msgpack structure; `unpack` reads the value's bytes."""
    kind = kind_of(record)
    if isinstance(record, Send):
        message = record.message
        return kind, (record.to, kind_of(message), message, record.reason)
    return kind, record


def pack(record: object) -> tuple[str, bytes]:
    """A record as its kind and msgpack."""
    kind, value = packable(record)
    try:
        return kind, _encode(value)
    except (UnicodeError, OverflowError) as error:
        raise RecordError(f"{kind} cannot be kept: {error}") from error


def unpack(kind: str, data: bytes | msgspec.Raw) -> Any:
    """The record that was packed. Raises RecordError for anything else."""
    try:
        if kind == "Send":
            send = _unpack_send(data)
            if send.kind not in MESSAGES:
                raise RecordError(f"Send holds {send.kind!r}, which is no message")
            return Send(send.to, unpack(send.kind, send.message), send.reason)
        decode = _unpackers.get(kind)
        if decode is None:
            decode = _unpackers[kind] = msgspec.msgpack.Decoder(_class_of(kind)).decode
        return decode(data)
    except _BAD as error:
        raise RecordError(f"{kind} does not fit this version: {error}") from error


# ---------------------------------------------------------------- plain values


def to_plain(record: object) -> tuple[str, dict[str, Any]]:
    """A record as its kind and a table that JSON can hold."""
    kind = kind_of(record)
    if isinstance(record, Send):
        table = msgspec.to_builtins({"to": record.to, "reason": record.reason}, str_keys=True)
        table["message"] = list(to_plain(record.message))
    else:
        table = msgspec.to_builtins(record, str_keys=True)
    return kind, _without_infinities(table)


def from_plain(kind: str, table: dict[str, Any]) -> Any:
    """The record of `to_plain`, also after a way through JSON. Raises RecordError."""
    cls = _class_of(kind)
    if not isinstance(table, dict):
        raise RecordError(f"{kind} is not a table of fields")
    known = [each.name for each in fields(cls)]
    if sorted(table) != sorted(known):
        odd = sorted(set(table) ^ set(known))
        raise RecordError(f"{kind} has other fields in this version: {', '.join(odd)}")
    if cls is Send:
        return _send_from_plain(table)
    try:
        return msgspec.convert(_with_infinities(table), cls, str_keys=True)
    except _BAD as error:
        raise RecordError(f"{kind} does not fit this version: {error}") from error


def _send_from_plain(table: dict[str, Any]) -> Send:
    try:
        kind, inner = msgspec.convert(table["message"], tuple[str, dict[str, Any]])
        to = msgspec.convert(table["to"], tuple[str, ...])
        reason = msgspec.convert(table["reason"], Reason)
    except _BAD as error:
        raise RecordError(f"Send does not fit this version: {error}") from error
    if kind not in MESSAGES:
        raise RecordError(f"Send holds {kind!r}, which is no message")
    return Send(to, from_plain(kind, inner), reason)


def _class_of(kind: str) -> type:
    cls = RECORDS.get(kind)
    if cls is None:
        raise RecordError(f"{kind!r} is not a record of this version")
    return cls


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, dict):
        return {key: _without_infinities(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return value


def _with_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$float"} and value["$float"] in ("inf", "-inf", "nan"):
            return float(value["$float"])
        return {key: _with_infinities(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_infinities(each) for each in value]
    return value
