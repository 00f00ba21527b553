"""Merges computed again from the payloads that a tape kept, bit by bit.

Imports torch, so it is imported late. Must never pass a merge over silently: what cannot be
computed, for want of a backend or of the state before it, is said. A merged displacement needs
its contributions alone; the published bytes need the fragment's state before, which is followed
from where `follow` put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from atoll.core.effects import Merge
from atoll.fragments.layout import Layout
from atoll.fragments.pieces import Fragment
from atoll.merge.backends import EAGER, Backend, CompiledBackend, has_compiler
from atoll.merge.chain import Published
from atoll.merge.chain import digest_of as digest_of_values
from atoll.merge.codecs import CODECS
from atoll.merge.merge import (
    Contribution,
    ContributionError,
    FragmentMerger,
    FragmentState,
    MergeError,
    MergeSettings,
)
from atoll.tape.format import MERGING, BaseNote, MergeNote, Merging
from atoll.tape.payloads import digest_of
from atoll.tape.read import TapeError
from atoll.tape.replay import Recomputed


def write_merging(root: Path, layout: Layout, settings: MergeSettings) -> None:
    """What `recomputer_of` needs, beside the tapes; whole or not at all."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    path, half = root / MERGING, root / f".{MERGING}"
    half.write_bytes(msgspec.json.encode(Merging(merge=plain, layout=layout.to_dict())))
    half.replace(path)


def recomputer_of(root: Path) -> MergeRecomputer:
    """For the tapes in a folder. Raises TapeError where it does not say how they merged."""
    path = root / MERGING
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Merging)
        settings = msgspec.convert(kept.merge, MergeSettings)
        layout = Layout.from_dict(kept.layout)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise TapeError(f"{path} cannot be read, so no merge is computed again: {error}") from error
    backends = (EAGER, CompiledBackend()) if has_compiler() else (EAGER,)
    return MergeRecomputer(layout.fragments, settings, backends)


def state_bytes(state: FragmentState) -> bytes:
    """A fragment's state as the payload of a `BaseNote`."""
    tensors = {"published": state.published.values}
    if state.version:
        tensors["theta"] = state.theta
        tensors |= {f"outer.{name}": tensor for name, tensor in state.outer.items()}
    return save(tensors)


class MergeRecomputer:
    """A `Recompute` for the fragments of one layout."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        settings: MergeSettings,
        backends: Sequence[Backend] = (EAGER,),
    ):
        self._compiled = [each for each in backends if isinstance(each, CompiledBackend)]
        self._mergers: dict[str, list[FragmentMerger]] = {
            backend.name: [FragmentMerger(each, settings, backend) for each in fragments]
            for backend in backends
        }
        self._states: dict[int, FragmentState] = {}

    def follow(self, fragment: int, state: FragmentState) -> None:
        """Published bytes are compared from the version after this state's on."""
        self._states[fragment] = state

    def begin(self, note: BaseNote, body: bytes) -> Recomputed:
        """Follow a fragment from the state that a tape kept."""
        merger = self._merger("eager", note.fragment)
        try:
            tensors = load(body)
            values = tensors["published"]
            if note.version == 0 and merger is not None:
                state = merger.initial(values)
            else:
                outer = {n[6:]: t for n, t in tensors.items() if n.startswith("outer.")}
                published = Published(note.version, values, digest_of_values(values))
                state = FragmentState(tensors["theta"], outer, published)
        except (SafetensorError, KeyError, ValueError) as error:
            return Recomputed(refused=f"the state that was kept is none: {error}")
        if state.published.digest != note.published:
            return Recomputed(refused="the state that was kept is not what was published")
        self.follow(note.fragment, state)
        return Recomputed()

    def _merger(self, backend: str, fragment: int) -> FragmentMerger | None:
        mergers = self._mergers.get(backend, [])
        return mergers[fragment] if 0 <= fragment < len(mergers) else None

    def __call__(self, note: MergeNote, order: Merge, bodies: Mapping[str, bytes]) -> Recomputed:
        """Merge again. What the merge refuses was not what the tape says it merged."""
        merger = self._merger(note.backend, note.fragment)
        if merger is None:
            return Recomputed(why_not=f"backend {note.backend!r} is not here")
        parts = {str(part.cut.id): part for part in order.parts}
        if sorted(parts) != sorted(bodies):
            return Recomputed(refused="the payloads are not those of its parts")
        contributions = []
        for cut, codec, _ in note.contributions:
            if codec not in CODECS:
                return Recomputed(why_not=f"codec {codec!r} is not known")
            part = parts[cut]
            contributions.append(Contribution(cut, codec, bodies[cut], part.weight, part.scale))
        if note.backend == "compiled" and contributions:
            self._compiled[0].warm(contributions[0].codec, len(contributions))
        try:
            return self._merge(merger, note, contributions)
        except (ContributionError, MergeError) as error:
            return Recomputed(refused=str(error))

    def _merge(
        self, merger: FragmentMerger, note: MergeNote, contributions: list[Contribution]
    ) -> Recomputed:
        state = self._states.get(note.fragment)
        follows = state is not None and state.version == note.version - 1
        # The merged displacement does not depend on the state that it is applied to.
        before = state if follows else merger.initial(torch.zeros(merger.fragment.numel))
        assert before is not None
        merged = merger.merge(before, contributions)
        if merged.backend != note.backend:
            return Recomputed(why_not=f"backend {note.backend!r} is not ready for it")
        delta = digest_of(merged.delta_bytes.cpu().numpy().tobytes())
        if not follows:
            return Recomputed(delta)
        self._states[note.fragment] = merged.state
        return Recomputed(delta, merged.state.published.digest)
