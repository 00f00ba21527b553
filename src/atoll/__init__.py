"""Atoll trains one model over islands of compute that come and go.

What a training loop needs is here by name: `atoll.join`, `atoll.lr_lambda`. Importing `atoll`
loads none of it, and never torch: the names are looked up when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

__version__: Final = "0.1.0"

_PUBLIC: Final[dict[str, str]] = {
    "join": "atoll.learner",
    "lr_lambda": "atoll.learner",
}
"""Public names and the module that each is taken from."""


def __getattr__(name: str) -> Any:
    """Look up a public name in the module that owns it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'atoll' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """Public names too, for completion."""
    return sorted([*globals(), *_PUBLIC])
