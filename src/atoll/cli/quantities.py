"""Counts as people write them: 12e9, 12B, 500M, 50_000."""

from __future__ import annotations

from atoll.core.settings import SettingsError

SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def count_of(text: str, option: str) -> int:
    """A whole number from 1 on; K, M, B and T stand for thousands to trillions."""
    plain = text.strip().replace("_", "")
    factor = SUFFIXES.get(plain[-1:].upper(), 1.0)
    try:
        value = float(plain if factor == 1.0 else plain[:-1]) * factor
        number = round(value)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise SettingsError(f"{option} {text!r} is no number: write it as 12e9, 12B or 500M")
    return number
