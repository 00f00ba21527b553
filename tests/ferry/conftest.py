"""A scripted lagoon, and doors to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from atoll.core.settings import ProtocolSettings
from ferry.lagoon import Lagoon


@pytest.fixture
def new_lagoon() -> Iterator[Callable[..., Lagoon]]:
    made: list[Lagoon] = []

    def make(**fields: object) -> Lagoon:
        fields.setdefault("protocol", ProtocolSettings(M=1, P=2, H=4, tau=1, receipt="keep"))
        made.append(Lagoon(**fields))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for lagoon in made:
        lagoon.close()
