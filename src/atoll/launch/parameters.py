"""The published parameters of a run: from its syncer, or from its state when nobody serves it.

Looks only: comes in as an observer, or reads the store without owning it. What is read from the
store is replayed and held against the digests that were published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from atoll.access.invite import Invite
from atoll.ferry.errors import FerryError
from atoll.ferry.follower import follow_run
from atoll.fragments import Layout
from atoll.fragments.access import scatter_
from atoll.launch.folder import RunFolder
from atoll.merge.chain import Published
from atoll.store.errors import StoreError
from atoll.store.runs import read_run, read_snapshot, snapshots_in
from atoll.syncer.durable import SnapshotState
from atoll.syncer.recovery import Makings, rebuild
from atoll.syncer.settings import SyncerSettings, read_settings
from atoll.syncer.vault import state_from

FOLLOW_S = 60.0
Source = Literal["syncer", "store", "snapshot"]


class NotPublishedError(ValueError):
    """The parameters cannot be had. Says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """All tensors that are merged, by canonical name, and the version of each fragment."""

    run: str
    layout: Layout
    tensors: dict[str, Tensor]
    versions: tuple[int, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot that a run folder keeps. `number` names it; `why` says why it stays."""

    number: int
    tokens: int
    written_s: float
    num_bytes: int
    why: str


def from_syncer(invite: Invite) -> Parameters:
    """Ask the syncer that an invite leads to."""
    try:
        with follow_run(invite, FOLLOW_S) as follower:
            follower.poll(FOLLOW_S)
            layout = follower.layout
            parts = [follower.published(fragment) for fragment in range(layout.num_fragments)]
            return _together(invite.run, layout, parts, "syncer")
    except FerryError as error:
        raise NotPublishedError(
            f"cannot fetch run {invite.run!r}: {error}; start its syncer, or name its run folder "
            "on the machine where it was"
        ) from error


def from_store(folder: RunFolder) -> Parameters:
    """Read a run folder; nobody has to run, and nobody who does is disturbed."""
    settings = read_settings(folder.syncer_settings)
    name = settings.run.run
    now = [0.0]

    def set_clock(at_s: float) -> None:
        now[0] = max(now[0], at_s)

    try:
        recovered = read_run(folder.state, name)
        run = rebuild(Makings(settings, lambda: now[0]), recovered, set_clock)
    except StoreError as error:
        raise NotPublishedError(f"cannot read run {name!r} in {folder.root}: {error}") from error
    states = {} if run is None else run.vault.states()
    if run is None or len(states) < run.vault.layout.num_fragments:
        raise NotPublishedError(
            f"run {name!r} has no whole version 0 yet ({len(states)} of {settings.protocol.P} "
            "fragments): let learners join first"
        )
    parts = [states[fragment].published for fragment in range(len(states))]
    return _together(name, run.vault.layout, parts, "store")


def snapshots_of(folder: RunFolder) -> list[Kept]:
    """The snapshots of a run folder, oldest first. Their tokens are what the run had trained."""
    settings = _settings(folder)
    name, retention = settings.run.run, settings.service.retention
    try:
        refs = snapshots_in(folder.state, name)
    except StoreError as error:
        raise NotPublishedError(f"cannot read run {name!r} in {folder.root}: {error}") from error
    found = []
    for ref in refs:
        try:
            about = (folder.state / name / "snapshots" / f"{ref.name}.safetensors").stat()
        except FileNotFoundError:
            continue  # the owner removed it meanwhile
        why = retention.reason(ref, refs) or "goes with the next one"
        found.append(Kept(ref.upto_lsn, ref.tokens, about.st_mtime, about.st_size, why))
    return found


def from_snapshot(folder: RunFolder, number: int) -> Parameters:
    """The parameters as a snapshot holds them: those of its moment."""
    settings = _settings(folder)
    name = settings.run.run
    try:
        refs = [ref for ref in snapshots_in(folder.state, name) if ref.upto_lsn == number]
        if not refs:
            raise NotPublishedError(
                f"run {name!r} keeps no snapshot {number}: `atoll export {folder.root} --list` "
                "names those it keeps"
            )
        found = read_snapshot(folder.state, name, refs[-1])
    except StoreError as error:
        text = f"cannot read snapshot {number} of run {name!r}: {error}"
        raise NotPublishedError(text) from error
    state = msgspec.json.decode(found.state, type=SnapshotState)
    layout = Layout.from_dict(state.layout)
    if len(state.versions) < layout.num_fragments:
        text = f"snapshot {number} of run {name!r} is older than version 0 of every fragment"
        raise NotPublishedError(text)
    parts = [
        state_from(found.tensors, fragment, *state.versions[fragment]).published
        for fragment in range(layout.num_fragments)
    ]
    return _together(name, layout, parts, "snapshot")


def _settings(folder: RunFolder) -> SyncerSettings:
    if not folder.syncer_settings.exists():
        raise NotPublishedError(f"{folder.root} holds no run that has begun: name a run folder")
    return read_settings(folder.syncer_settings)


def newest(path: Path, folder: RunFolder, invite: Invite, is_served: bool) -> Parameters:
    """From the syncer where it answers, else from the run folder."""
    if is_served or not path.is_dir():
        return from_syncer(invite)
    if not folder.syncer_settings.exists():
        raise NotPublishedError(f"the run in {folder.root} has not begun: start its syncer")
    return from_store(folder)


def _together(run: str, layout: Layout, parts: list[Published], source: Source) -> Parameters:
    tensors = {spec.name: torch.empty(spec.shape) for spec in layout.tensors}
    for fragment, part in enumerate(parts):
        scatter_(layout, fragment, part.values, tensors)
    return Parameters(run, layout, tensors, tuple(part.version for part in parts), source)
