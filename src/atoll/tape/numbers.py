"""Merges computed again from the payloads that a tape kept, bit by bit.

Imports torch, so it is imported late. Must never pass a merge over silently: what cannot be
computed, for want of a backend or of the state before it, is said. A merged displacement needs
its contributions alone; the published bytes need the fragment's state before, which is followed
from where `follow` put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atoll.core.effects import Merge
from atoll.fragments.layout import Fragment
from atoll.merge.backends import EAGER, Backend
from atoll.merge.codecs import CODECS
from atoll.merge.merge import (
    Contribution,
    ContributionError,
    FragmentMerger,
    FragmentState,
    MergeError,
    MergeSettings,
)
from atoll.tape.format import MergeNote
from atoll.tape.payloads import digest_of
from atoll.tape.replay import Recomputed


class MergeRecomputer:
    """A `Recompute` for the fragments of one layout."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        settings: MergeSettings,
        backends: Sequence[Backend] = (EAGER,),
    ):
        self._mergers = {
            backend.name: [FragmentMerger(each, settings, backend) for each in fragments]
            for backend in backends
        }
        self._states: dict[int, FragmentState] = {}

    def follow(self, fragment: int, state: FragmentState) -> None:
        """Published bytes are compared from the version after this state's on."""
        self._states[fragment] = state

    def __call__(self, note: MergeNote, order: Merge, bodies: Mapping[str, bytes]) -> Recomputed:
        """Merge again. What the merge refuses was not what the tape says it merged."""
        mergers = [merger for name, merger in self._mergers.items() if name == note.backend]
        if not mergers or not 0 <= note.fragment < len(mergers[0]):
            return Recomputed(why_not=f"backend {note.backend!r} is not here")
        merger = mergers[0][note.fragment]
        parts = {str(part.cut.id): part for part in order.parts}
        if sorted(parts) != sorted(bodies):
            return Recomputed(refused="the payloads are not those of its parts")
        contributions = []
        for cut, codec, _ in note.contributions:
            if codec not in CODECS:
                return Recomputed(why_not=f"codec {codec!r} is not known")
            part = parts[cut]
            contributions.append(Contribution(cut, codec, bodies[cut], part.weight, part.scale))
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
