"""What the cores' numeric effects do: nothing but names, or real tensors (see `tensors.py`)."""

from __future__ import annotations

from typing import Protocol

from atoll.core.effects import InstallOrder, Merge
from atoll.core.ids import Cut


class Payload(Protocol):
    """The numeric half of a simulated run."""

    def start(self, learner: str) -> None:
        """A process of this learner begins, with fresh parameters."""

    def stop(self, learner: str) -> None:
        """A process of this learner is gone, with all that it held."""

    def step(self, learner: str) -> int:
        """One inner step; how many tokens it trained on."""

    def cut(self, learner: str, fragment: int, number: int) -> None:
        """Copy a fragment as it is now."""

    def upload(self, cut: Cut) -> bytes:
        """The encoded displacement of a cut."""

    def fetch(self, learner: str, fragment: int, version: int) -> None:
        """Bring a published version to a learner."""

    def install(self, learner: str, order: InstallOrder) -> None:
        """Carry out an install."""

    def forget(self, learner: str, fragment: int, number: int) -> None:
        """A cut's copies are not needed any more."""

    def lend(self, learner: str, fragment: int) -> bytes:
        """A copy of the inner state of a fragment, for a peer."""

    def inherit(self, learner: str, bodies: dict[int, bytes]) -> None:
        """Take over a peer's inner state, all fragments by number."""

    def initial(self, learner: str, fragment: int) -> str:
        """Version 0 of a fragment from this learner; its digest."""

    def merge(self, order: Merge, contributions: dict[str, bytes]) -> str:
        """Merge and publish; the digest of the new version."""


class NoPayload:
    """Time only: every step trains the same number of tokens, and digests are names."""

    def __init__(self, tokens_per_step: int = 100):
        self.tokens_per_step = tokens_per_step

    def start(self, learner: str) -> None:
        """Nothing to do."""

    def stop(self, learner: str) -> None:
        """Nothing to do."""

    def step(self, learner: str) -> int:
        """The same for everybody."""
        return self.tokens_per_step

    def cut(self, learner: str, fragment: int, number: int) -> None:
        """Nothing to copy."""

    def upload(self, cut: Cut) -> bytes:
        """No bytes."""
        return b""

    def fetch(self, learner: str, fragment: int, version: int) -> None:
        """Nothing to bring."""

    def install(self, learner: str, order: InstallOrder) -> None:
        """Nothing to install."""

    def forget(self, learner: str, fragment: int, number: int) -> None:
        """Nothing was kept."""

    def lend(self, learner: str, fragment: int) -> bytes:
        """No bytes."""
        return b""

    def inherit(self, learner: str, bodies: dict[int, bytes]) -> None:
        """Nothing to take over."""

    def initial(self, learner: str, fragment: int) -> str:
        """A name for version 0."""
        return f"{fragment}:0"

    def merge(self, order: Merge, contributions: dict[str, bytes]) -> str:
        """A name for the version."""
        return f"{order.fragment}:{order.version}"
