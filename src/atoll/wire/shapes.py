"""What fields of messages may look like: a strict twin of each class, for decoding.

A twin has the fields of its class with limits on every number and text, wants all of them and
refuses any other. The limits go by field name, once for all messages, so that a new field without
one fails at import. They bound sizes and rule out the impossible; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

LARGEST = (1 << 53) - 1
"""The largest whole number that every JSON reader holds exactly."""
LONGEST_NAME = 64
LONGEST_TEXT = 2000
LONGEST_POSITION = 4096
MOST_ITEMS = 1 << 16

COUNT = Meta(ge=0, le=LARGEST)
COUNT_OR_NONE = Meta(ge=-1, le=LARGEST)
SECONDS = Meta(ge=0.0, le=1e18)
NAME = Meta(pattern=rf"^[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}\Z")
CODE = Meta(pattern=rf"^[A-Za-z0-9_-]{{0,{LONGEST_NAME}}}\Z")
TEXT = Meta(max_length=LONGEST_TEXT)
POSITION = Meta(max_length=LONGEST_POSITION)
SHORT = Meta(max_length=200)

_COUNTS = (
    "incarnation number first_token end_token steps call at_step cut version ahead tokens lease "
    "step epoch num_shards turn first stop trained yours budget fragment tau merged_tokens base "
    "heir donor attempt taken index size_bytes"
)
_LIMITS: dict[str, Meta] = {
    **dict.fromkeys(_COUNTS.split(), COUNT),
    **dict.fromkeys(
        ("pace_s", "step_age_s", "fetch_s", "deadline_s", "limit_s", "left_s"), SECONDS
    ),
    **dict.fromkeys(("sentence", "why"), TEXT),
    **dict.fromkeys(("process", "layout", "digest", "busy", "kind"), SHORT),
    "learner": NAME,
    "code": CODE,
    "position": POSITION,
    "stream": COUNT_OR_NONE,
    "held": COUNT_OR_NONE,
    "InnerHere.donor": NAME,
    "FragmentFinal.version": COUNT_OR_NONE,
}
CLIPPED = {"sentence": LONGEST_TEXT, "why": LONGEST_TEXT, "busy": 200}
"""Text for people: too long is cut off when it is sent, so that what matters arrives."""

Builder = Callable[[Any], Any]


class Shape:
    """The twin of one class, and how an instance of the class is made from the twin's."""

    def __init__(self, kind: type):
        self.kind = kind
        self.struct, self.build = _twin(kind)


_shapes: dict[type, Shape] = {}


def shape_of(kind: type) -> Shape:
    """The shape of a message class, made once."""
    if kind not in _shapes:
        _shapes[kind] = Shape(kind)
    return _shapes[kind]


def _twin(kind: type) -> tuple[type[msgspec.Struct], Builder]:
    hints = get_type_hints(kind)
    wanted: list[tuple[str, Any]] = []
    builders: list[tuple[int, Builder]] = []
    for index, each in enumerate(fields(kind)):
        limit = _LIMITS.get(f"{kind.__name__}.{each.name}") or _LIMITS.get(each.name)
        annotation, builder = _strict(hints[each.name], limit, f"{kind.__name__}.{each.name}")
        wanted.append((each.name, annotation))
        if builder is not None:
            builders.append((index, builder))
    struct = msgspec.defstruct(kind.__name__, wanted, forbid_unknown_fields=True, gc=False)
    return struct, _builder(kind, builders)


def _strict(hint: Any, limit: Meta | None, where: str) -> tuple[Any, Builder | None]:
    """A field's type with its limits, and what makes the core's value of it, if anything does."""
    if hint is bool:
        return hint, None
    if is_dataclass(hint):
        assert isinstance(hint, type)
        shape = shape_of(hint)
        return shape.struct, shape.build
    if get_origin(hint) is tuple:
        return _strict_tuple(get_args(hint), limit, where)
    assert hint in (int, float, str), f"{where} is of a type that does not travel: {hint}"
    if limit is None:
        raise TypeError(f"{where} has no limit: add its name to the table of limits")
    return Annotated[hint, limit], None


def _strict_tuple(
    args: tuple[Any, ...], limit: Meta | None, where: str
) -> tuple[Any, Builder | None]:
    if len(args) == 2 and args[1] is ...:
        item, build = _strict(args[0], limit, where)
        items: Any = tuple.__class_getitem__((item, ...))
        many: Any = Annotated[items, Meta(max_length=MOST_ITEMS)]
        if build is None:
            return many, None
        each = build
        return many, lambda values: tuple([each(value) for value in values])
    # The one tuple of mixed types: (learner, incarnation, position).
    assert args == (str, int, int), f"{where} is a tuple that does not travel"
    return tuple[Annotated[str, NAME], Annotated[int, COUNT], Annotated[int, COUNT]], None


def _builder(kind: type, builders: list[tuple[int, Builder]]) -> Builder:
    astuple = msgspec.structs.astuple
    if not builders:
        return lambda twin: kind(*astuple(twin))
    if len(builders) == 1:
        only, build_only = builders[0]

        def build_one(twin: msgspec.Struct) -> Any:
            values = list(astuple(twin))
            values[only] = build_only(values[only])
            return kind(*values)

        return build_one

    def build_some(twin: msgspec.Struct) -> Any:
        values = list(astuple(twin))
        for index, build in builders:
            values[index] = build(values[index])
        return kind(*values)

    return build_some
