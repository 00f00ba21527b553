"""The order in which items are visited: a seeded permutation, computed index by index.

Never stores the permutation, so a data set of 10^10 items costs the same as one of ten.
Invariant: for every size and seed, `Permutation.at` is a bijection of range(size); it depends on
size, seed and index alone, the same on every machine. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

_MASK_64 = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NUM_ROUNDS = 6


def _mix(value: int) -> int:
    """Scatter 64 bits (the finaliser of splitmix64)."""
    value &= _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class Permutation:
    """A permutation of range(size) drawn by `seed`."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"cannot order {self.size} items; give it at least one")

    def at(self, index: int) -> int:
        """The item at place `index`.

        A Feistel network permutes the smallest power of four that holds `size`. Where it leaves
        range(size), it is applied again: the cycle must come back, on average in under four turns.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"place {index} is outside range({self.size})")
        half_bits = max(1, ((self.size - 1).bit_length() + 1) // 2)
        value = self._shuffle(index, half_bits)
        while value >= self.size:
            value = self._shuffle(value, half_bits)
        return value

    def _shuffle(self, value: int, half_bits: int) -> int:
        mask = (1 << half_bits) - 1
        left, right = value >> half_bits, value & mask
        key = _mix(self.seed)
        for _ in range(_NUM_ROUNDS):
            key = (key + _GOLDEN) & _MASK_64
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << half_bits) | right


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """Endless places over a data set of `size`: each epoch visits every item once, newly mixed."""

    size: int
    seed: int

    def at(self, position: int) -> int:
        """The item at `position`, counted from the start of the first epoch."""
        epoch, index = divmod(position, self.size)
        return Permutation(self.size, _mix(self.seed + _GOLDEN * (epoch + 1))).at(index)
