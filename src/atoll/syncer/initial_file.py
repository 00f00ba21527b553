"""Version 0 from a safetensors file, for a run whose `initial` is "file".

Looked for before the syncer listens, read when the layout is known. Nothing executable is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.fragments.names import canonical_names
from atoll.merge.merge import FragmentState
from atoll.syncer.durable import Keeper
from atoll.syncer.errors import SyncerError
from atoll.syncer.vault import Vault


@dataclass(frozen=True, slots=True)
class InitialFile:
    """Where version 0 lies."""

    path: Path

    @classmethod
    def check(cls, path: str) -> InitialFile | None:
        """None where there is none; SyncerError where it is not a file."""
        if not path:
            return None
        if not Path(path).is_file():
            raise SyncerError(f"initial_file = {path!r} is not a file: give a safetensors file")
        return cls(Path(path))

    def store(self, vault: Vault, keeper: Keeper) -> list[tuple[int, FragmentState, int]]:
        """On a worker: make every missing fragment durable; (fragment, state, LSN) of each."""
        layout: Layout = vault.layout
        missing = [p for p in range(layout.num_fragments) if vault.state(p) is None]
        if not missing:
            return []
        try:
            loaded = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise SyncerError(f"cannot read version 0 from {self.path}: {error}") from error
        names = list(loaded)
        tensors = {new: loaded[old] for old, new in zip(names, canonical_names(names), strict=True)}
        stored: list[tuple[int, FragmentState, int]] = []
        for fragment in missing:
            try:
                state = vault.mergers[fragment].initial(gather(layout, fragment, tensors))
            except ValueError as error:
                raise SyncerError(f"version 0 in {self.path} does not fit: {error}") from error
            lsn = keeper.initial(fragment, state.published.digest, state.theta)
            stored.append((fragment, state, lsn))
        return stored
