"""Two layouts that should be one: the first difference, as a sentence.

Pure; used when a learner is refused at the door, on both sides. Must never say "different" of
layouts with equal fingerprints, nor nothing of layouts with different ones.
"""

from __future__ import annotations

from itertools import zip_longest

from atoll.fragments.layout import Layout
from atoll.fragments.pieces import TensorSpec


def first_difference(mine: Layout, theirs: Layout) -> str | None:
    """What differs first, seen from `mine`; None where the fingerprints agree."""
    if mine.fingerprint() == theirs.fingerprint():
        return None
    sentence = _in_tensors(mine, theirs) or _in_frozen(mine, theirs) or _in_cut(mine, theirs)
    assert sentence is not None, "fingerprints differ, so something does"
    return sentence


def _in_tensors(mine: Layout, theirs: Layout) -> str | None:
    for position, (here, there) in enumerate(zip_longest(mine.tensors, theirs.tensors)):
        if here == there:
            continue
        if here is None or there is None or here.name != there.name:
            return _who_is_missing(mine, theirs, position)
        return _in_one_tensor(here, there)
    return None


def _who_is_missing(mine: Layout, theirs: Layout, position: int) -> str:
    here = mine.tensors[position].name if position < len(mine.tensors) else None
    there = theirs.tensors[position].name if position < len(theirs.tensors) else None
    if here is not None and here not in [spec.name for spec in theirs.tensors]:
        return f"{here} takes part here but not there{_frozen_hint(here, theirs, 'there')}"
    if there is not None and there not in [spec.name for spec in mine.tensors]:
        return f"{there} takes part there but not here{_frozen_hint(there, mine, 'here')}"
    return f"tensor number {position} is {here} here and {there} there: the order differs"


def _frozen_hint(name: str, other: Layout, where: str) -> str:
    return f", for {where} it is frozen" if name in other.frozen_digests else ""


def _in_one_tensor(here: TensorSpec, there: TensorSpec) -> str:
    if here.shape != there.shape:
        return f"{here.name} has shape {here.shape} here and {there.shape} there"
    if here.kind != there.kind:
        return f"{here.name} is merged as {here.kind} here and as {there.kind} there"
    words = {True: "a buffer", False: "a parameter"}
    return f"{here.name} is {words[here.is_buffer]} here and {words[there.is_buffer]} there"


def _in_frozen(mine: Layout, theirs: Layout) -> str | None:
    for name in sorted({*mine.frozen_digests, *theirs.frozen_digests}):
        here, there = mine.frozen_digests.get(name), theirs.frozen_digests.get(name)
        if here is None or there is None:
            return f"the frozen tensor {name} exists only {'there' if here is None else 'here'}"
        if here != there:
            return f"the frozen tensor {name} has other values or another shape there than here"
    return None


def _in_cut(mine: Layout, theirs: Layout) -> str | None:
    if mine.num_fragments != theirs.num_fragments:
        return f"cut into {mine.num_fragments} fragments here and {theirs.num_fragments} there"
    if mine.strategy != theirs.strategy:
        return f"cut by '{mine.strategy}' here and by '{theirs.strategy}' there"
    for index, (here, there) in enumerate(zip(mine.fragments, theirs.fragments, strict=True)):
        if here != there:
            return f"fragment {index} holds other rows there: the two run different versions"
    return None
