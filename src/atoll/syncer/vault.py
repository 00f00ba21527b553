"""The global state in memory: of each fragment what the syncer owns, and its published chain.

Written by the control thread only, read by all. States are never changed, only followed by new
ones, so whoever holds one may read it without a lock. Must never hold a version that is not
durable. Keeps: what is served is what the digest says.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atoll.fragments import Layout
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.backends import EAGER, Backend
from atoll.merge.chain import Chain, Increment, Published
from atoll.merge.codecs import Payload, encoded_bytes
from atoll.merge.merge import FragmentMerger, FragmentState, MergeSettings

Form = Literal["full", "increments"]


@dataclass(frozen=True, slots=True)
class News:
    """What a holder of an older version, or of nothing, is sent."""

    version: int
    digest: str
    form: Form
    body: tuple[memoryview, ...]

    @property
    def num_bytes(self) -> int:
        """Of the whole body."""
        return sum(part.nbytes for part in self.body)


class Vault:
    """All fragments of a run."""

    def __init__(self, layout: Layout, settings: MergeSettings, backend: Backend = EAGER) -> None:
        self.layout = layout
        self.fingerprint = layout.fingerprint()
        self.downlink = settings.downlink_codec
        self.mergers = [FragmentMerger(each, settings, backend) for each in layout.fragments]
        self._lock = threading.Lock()
        self._states: dict[int, FragmentState] = {}
        self._chains: dict[int, Chain] = {}

    def begin(self, fragment: int, state: FragmentState) -> None:
        """A fragment has its first version here: 0, or that of a snapshot."""
        with self._lock:
            assert fragment not in self._states, "a fragment begins once"
            self._states[fragment] = state
            self._chains[fragment] = Chain(state.published)

    def advance(self, fragment: int, state: FragmentState, increment: Increment) -> None:
        """The next version is durable."""
        with self._lock:
            assert state.version == self._states[fragment].version + 1, "versions rise by one"
            self._states[fragment] = state
            self._chains[fragment].append(state.published, increment)

    def state(self, fragment: int) -> FragmentState | None:
        """The newest state of a fragment; None before version 0."""
        with self._lock:
            return self._states.get(fragment)

    def news(self, fragment: int, base: int | None) -> News | None:
        """The newest version for a holder of `base`, in fewer bytes; None before version 0.

        Raises ValueError where the base was never published. Nothing is copied.
        """
        with self._lock:
            chain = self._chains.get(fragment)
            if chain is None:
                return None
            newest, increments = chain.published, chain.increments
        if base is not None:
            if not 0 <= base <= newest.version:
                raise ValueError(
                    f"version {base} of fragment {fragment} was never published, the newest is "
                    f"{newest.version}: ask again without a base"
                )
            missing = [each for each in increments if each.version > base]
            size = encoded_bytes(self.downlink, newest.values.numel())
            fits = len(missing) == newest.version - base
            if fits and (not missing or size * len(missing) < _full_bytes(newest)):
                body = tuple(_view(each.payload) for each in missing)
                return News(newest.version, newest.digest, "increments", body)
        return News(newest.version, newest.digest, "full", (byte_view(newest.values),))

    def states(self) -> dict[int, FragmentState]:
        """All newest states, by fragment."""
        with self._lock:
            return dict(self._states)


def tensors_of(states: dict[int, FragmentState]) -> dict[str, Tensor]:
    """States as named tensors, for a snapshot; none is copied."""
    named: dict[str, Tensor] = {}
    for fragment, state in states.items():
        named[f"{fragment}.theta"] = state.theta
        named[f"{fragment}.published"] = state.published.values
        for name, tensor in state.outer.items():
            named[f"{fragment}.outer.{name}"] = tensor
    return named


def state_from(
    tensors: dict[str, Tensor], fragment: int, version: int, digest: str
) -> FragmentState:
    """A state out of a snapshot's tensors."""
    prefix = f"{fragment}.outer."
    outer = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    published = Published(version, tensors[f"{fragment}.published"], digest)
    return FragmentState(tensors[f"{fragment}.theta"], outer, published)


def _full_bytes(published: Published) -> int:
    return 4 * published.values.numel()


def _view(payload: Payload) -> memoryview:
    return byte_view(payload) if isinstance(payload, Tensor) else memoryview(payload)
