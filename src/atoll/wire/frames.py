"""Control frames: one message as a JSON array `[party, kind, fields]`, and back.

`decode` is the gate for everything a stranger can send: it raises `WireError` and nothing else,
and what it returns is one of the core's messages with every field within its limits. It must never
judge what a message means, nor who may speak for whom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import msgspec

from atoll.core import messages as msg
from atoll.wire.errors import WireError
from atoll.wire.shapes import CLIPPED, Builder, shape_of

LIMIT_BYTES = 1 << 20
"""The largest control frame."""
_SHOWN = 200
_PARTY = re.compile(r"(?:coordinator|shard-(?:0|[1-9][0-9]{0,5}))\Z")


class _Kind:
    """How one class of messages is written and read."""

    def __init__(self, kind: type):
        shape = shape_of(kind)
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(shape.struct)
        self.build: Builder = shape.build
        self.clipped = tuple(each.name for each in fields(kind) if each.name in CLIPPED)
        seconds = [each.name for each in fields(kind) if each.name.endswith("_s")]
        self.floats = tuple(attrgetter(name) for name in seconds)


Kinds = Mapping[str, _Kind]


def _kinds(*classes: type) -> Kinds:
    return MappingProxyType({each.__name__: _Kind(each) for each in classes})


FROM_LEARNER: Kinds = _kinds(
    msg.Hello,
    msg.WantData,
    msg.DataPosition,
    msg.InitialOffered,
    msg.AskInner,
    msg.InnerOver,
    msg.Report,
    msg.Beat,
    msg.Leave,
    msg.Announce,
)
"""What a learner may say: the only kinds a listener of the syncer takes from one."""
FROM_SYNCER: Kinds = _kinds(
    msg.Welcome,
    msg.Rejected,
    msg.Initialise,
    msg.Begin,
    msg.Granted,
    msg.Progress,
    msg.Finishing,
    msg.Ended,
    msg.Replaced,
    msg.LendInner,
    msg.InnerHere,
    msg.InnerNone,
    msg.Call,
    msg.Published,
    msg.Dropped,
    msg.Wanted,
)
"""What the coordinator or a shard may say to a learner."""
FROM_COORDINATOR: Kinds = _kinds(msg.Admitted, msg.Departed, msg.Finish)
"""What the coordinator says to shards; never taken from a learner."""
FROM_SHARD: Kinds = _kinds(msg.FragmentReady, msg.Settled, msg.FragmentFinal)
"""What shards say to the coordinator; never taken from a learner."""
BETWEEN_PARTIES: Kinds = MappingProxyType({**FROM_LEARNER, **FROM_SYNCER})
"""Everything that travels between learners and the syncer, in either direction."""

_ALL: Kinds = MappingProxyType({**BETWEEN_PARTIES, **FROM_COORDINATOR, **FROM_SHARD})
_frame = msgspec.json.Decoder(tuple[str, str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def encode(party: str, message: object) -> str:
    """A message as a text frame; `party` is who is addressed, or who of the syncer speaks."""
    kind = type(message).__name__
    known = _ALL.get(kind)
    if known is None:
        raise WireError("unknown_kind", f"{kind} is no message that travels")
    for seconds in known.floats:
        # A number that is not finite would be written as null: 0 * inf and 0 * nan are no 0.
        if seconds(message) * 0 != 0:
            raise WireError("fields", f"a time in {kind} is not finite")
    for name in known.clipped:
        if len(getattr(message, name)) > CLIPPED[name]:
            message = replace(message, **{name: _clip(message, name)})  # type: ignore[type-var]
    try:
        return _encoder.encode((party, kind, message)).decode()
    except UnicodeError as error:
        raise WireError("malformed", f"{kind} holds text that is not Unicode") from error


def decode(
    frame: str | bytes, limit_bytes: int = LIMIT_BYTES, kinds: Kinds = BETWEEN_PARTIES
) -> tuple[str, object]:
    """The party and the message of a frame; `kinds` are those that the speaker may use."""
    if len(frame) > limit_bytes or _encoded_bytes(frame) > limit_bytes:
        raise WireError("too_large", f"a frame of more than {limit_bytes} bytes")
    try:
        party, kind, raw = _frame.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WireError("malformed", f"not [party, kind, fields]: {_clean(str(error))}") from error
    if _PARTY.match(party) is None:
        raise WireError("unknown_party", f"there is no party {_shown(party)}")
    known = kinds.get(kind)
    if known is None:
        raise _unknown(kind)
    try:
        return party, known.build(known.decoder.decode(raw))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WireError("fields", f"{kind}: {_clean(str(error))}") from error


def _unknown(kind: str) -> WireError:
    if kind in _ALL:
        return WireError("not_allowed", f"{kind} is not for this speaker to say")
    return WireError("unknown_kind", f"there is no message {_shown(kind)}")


def _encoded_bytes(frame: str | bytes) -> int:
    if isinstance(frame, bytes) or frame.isascii():
        return len(frame)
    return len(frame.encode(errors="surrogatepass"))


def _clip(message: object, name: str) -> str:
    text: str = getattr(message, name)
    return text[: CLIPPED[name] - 1] + "…"


def _shown(text: str) -> str:
    return ascii(text[:_SHOWN])


def _clean(text: str) -> str:
    """An error message may quote what was sent: no control characters, no length."""
    return text[:_SHOWN] if text.isprintable() else ascii(text[:_SHOWN])
