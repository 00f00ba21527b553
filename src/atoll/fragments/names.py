"""Canonical names: what a tensor is called whatever wraps the model on this island.

Pure string work. `torch.compile`, DDP, FSDP and activation checkpointing put parts of their own
into names; two islands with different wrappers must still call the same tensor the same.
Invariant: canonical names are unique, or it raises.
"""

from __future__ import annotations

from collections.abc import Sequence

WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
DATA_PARALLEL_PREFIX = "module."


def canonical_names(names: Sequence[str]) -> list[str]:
    """The canonical form of all names of a model, in order.

    A leading `module.` (DDP) is stripped only while every name has it: then it is a wrapper or a
    lone child, and in both cases says nothing.
    """
    stripped = [_without_wrapper_parts(name) for name in names]
    while stripped and all(name.startswith(DATA_PARALLEL_PREFIX) for name in stripped):
        stripped = [name.removeprefix(DATA_PARALLEL_PREFIX) for name in stripped]
    _refuse_duplicates(names, stripped)
    return stripped


def _without_wrapper_parts(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)


def _refuse_duplicates(names: Sequence[str], stripped: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name, canonical in zip(names, stripped, strict=True):
        if canonical in seen:
            raise ValueError(
                f"{seen[canonical]} and {name} are both {canonical} once wrappers are stripped: "
                "rename one of the modules"
            )
        seen[canonical] = name
