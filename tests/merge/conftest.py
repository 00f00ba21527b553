"""Shared by the tests of merge: the compiled backend, built once, and fragments of given pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atoll.fragments import Fragment, Kind, Piece
from atoll.merge.backends import CompiledBackend, has_compiler

MakeFragment = Callable[..., Fragment]


@pytest.fixture(scope="session")
def fragment_of() -> MakeFragment:
    """Pieces of one row each, given as (kind, number of values)."""

    def make(*pieces: tuple[Kind, int], buffers: tuple[int, ...] = ()) -> Fragment:
        made: list[Piece] = []
        for index, (kind, numel) in enumerate(pieces):
            offset = made[-1].stop if made else 0
            made.append(Piece(f"t{index}", kind, index in buffers, 0, 1, offset, numel))
        return Fragment(tuple(made))

    return make


@pytest.fixture(scope="session")
def compiled() -> CompiledBackend:
    """Warmed for up to two contributions in bf16 and four in int8. Takes seconds, once."""
    if not has_compiler():
        pytest.skip("no C++ compiler here")
    backend = CompiledBackend()
    backend.warm("bf16", 2)
    backend.warm_in_background("int8", 4).join()
    return backend
