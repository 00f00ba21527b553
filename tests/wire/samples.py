"""Hypothesis strategies for every class of the core, built from its type hints."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from atoll.core.effects import Send
from atoll.core.reasons import Reason
from atoll.wire.records import MESSAGES

INT = st.integers(-(1 << 63), (1 << 63) - 1)
FLOAT = st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just("inf")


def of_hint(hint: Any) -> st.SearchStrategy[Any]:
    origin, args = get_origin(hint), get_args(hint)
    simple = {int: INT, float: FLOAT, str: TEXT, bool: st.booleans(), type(None): st.none()}
    if hint in simple:
        return simple[hint]
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is ...:
        return st.lists(of_hint(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of_hint, args))
    if origin is list:
        return st.lists(of_hint(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(of_hint(args[0]), of_hint(args[1]), max_size=3)
    if is_dataclass(hint):
        return of_class(hint)
    return st.one_of(*map(of_hint, args))


def of_class(cls: Any) -> st.SearchStrategy[Any]:
    if cls is Send:
        message = st.sampled_from(sorted(MESSAGES)).flatmap(lambda name: of_class(MESSAGES[name]))
        return st.builds(Send, st.lists(TEXT, max_size=3).map(tuple), message, of_class(Reason))
    hints = get_type_hints(cls)
    return st.builds(cls, **{each.name: of_hint(hints[each.name]) for each in fields(cls)})
