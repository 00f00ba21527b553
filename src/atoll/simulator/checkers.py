"""Watching a simulated run from outside: what must hold whatever the cores believe."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.hand import Span
from atoll.core.ids import Cut, CutId
from atoll.core.leases import LeaseBook
from atoll.core.messages import Published
from atoll.core.shard_state import ShardState


class Violation(AssertionError):
    """Something happened that must never happen."""


@dataclass(slots=True)
class Watch:
    """Counted once, durable before visible, versions that rise by one."""

    merged_in: dict[tuple[CutId, int], int] = field(default_factory=dict)
    spans: dict[tuple[str, int, int], int] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    num_merges: int = 0
    items: dict[tuple[int, int], list[tuple[str, int, int]]] = field(default_factory=dict)
    """Who trained an index of a pass: learner, life, and its own count of tokens after the step."""

    def merged(self, cut: Cut, version: int) -> None:
        """A cut was put into a durable version."""
        key = (cut.id, cut.fragment)
        if key in self.merged_in:
            raise Violation(f"{cut.id} was merged in {self.merged_in[key]} and again in {version}")
        self.merged_in[key] = version
        life = (cut.id.learner, cut.id.incarnation, cut.fragment)
        if cut.first_token < self.spans.get(life, 0):
            raise Violation(f"{cut.id} overlaps work up to {self.spans[life]} that was merged")
        self.spans[life] = cut.end_token

    def durable(self, fragment: int, version: int) -> None:
        """A version became durable."""
        if version != self.versions.get(fragment, -1) + 1:
            was = self.versions.get(fragment, -1)
            raise Violation(f"fragment {fragment} went from version {was} to {version}")
        self.versions[fragment] = version
        self.num_merges += 1

    def seen(self, message: object) -> None:
        """A learner was told something."""
        if isinstance(message, Published):
            durable = self.versions.get(message.fragment, -1)
            if message.version > durable:
                raise Violation(f"version {message.version} was seen, {durable} is durable")
            key = (message.fragment, message.version)
            if self.digests.setdefault(key, message.digest) != message.digest:
                raise Violation(f"version {message.version} has two digests")

    def recovered(self, state: ShardState, versions: dict[int, int]) -> None:
        """A shard came back."""
        for fragment in state.fragments:
            if fragment.version != versions.get(fragment.number, -1):
                raise Violation(
                    f"fragment {fragment.number} came back at {fragment.version}, "
                    f"durable was {versions.get(fragment.number, -1)}"
                )

    def trained(self, learner: str, incarnation: int, tokens: int, spans: tuple[Span, ...]) -> int:
        """A step was done on these items; how many they are."""
        num_items = 0
        for span in spans:
            num_items += span.stop - span.first
            for index in range(span.first, span.stop):
                by = self.items.setdefault((span.turn, index), [])
                by.append((learner, incarnation, tokens))
        return num_items

    def lost_items(self, book: LeaseBook, turn: int = 0) -> list[int]:
        """Indices of a pass that nobody has trained and that nobody will be given."""
        ahead = [(held.turn, int(held.safe), held.stop) for held in book.held.values()]
        ahead += book.returned
        if book.turn == turn:
            ahead.append((turn, book.next_index, book.items))
        coming = {i for at, first, stop in ahead if at == turn for i in range(first, stop)}
        if book.turn < turn:
            return []
        return [i for i in range(book.items) if i not in coming and (turn, i) not in self.items]
