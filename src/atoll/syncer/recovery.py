"""From the store back to a run: snapshot, then every record after it, into cores and tensors.

Replayed merges are checked against the digests that were published: bit-equal, or the syncer does
not start. Must never begin a run that is not there; that is the store's refusal (invariant 4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import CoordinatorCore
from atoll.core.coordinator_state import RunSettings
from atoll.core.ids import COORDINATOR, shard_party
from atoll.core.shard import ShardCore
from atoll.fragments import Layout
from atoll.merge.backends import EAGER, Backend
from atoll.merge.chain import digest_of
from atoll.merge.codecs import decode, encoded_bytes
from atoll.store.records import Record
from atoll.store.recovery import NO_STATE, Recovered
from atoll.syncer import durable as du
from atoll.syncer.cores import Cores, Recorder
from atoll.syncer.errors import SyncerError
from atoll.syncer.settings import SyncerSettings
from atoll.syncer.taping import Tapes
from atoll.syncer.vault import Vault, state_from
from atoll.wire.records import from_plain

log = logging.getLogger("atoll.syncer")


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run whose layout is known."""

    settings: RunSettings
    vault: Vault
    cores: Cores


@dataclass(frozen=True, slots=True)
class Makings:
    """What new cores and vaults are made of."""

    settings: SyncerSettings
    clock: Callable[[], float]
    recorder: Recorder | None = None
    backend: Backend = EAGER
    tapes: Tapes | None = None


def begin_run(makings: Makings, layout: Layout, epoch: int) -> OpenRun:
    """A run that has only its layout."""
    s = makings.settings
    run = _with_layout(s, layout)
    coordinator = CoordinatorCore(s.protocol, run, epoch)
    shards = [ShardCore(s.protocol, i, run.num_shards, epoch) for i in range(run.num_shards)]
    cores = _on_tape(makings, run, coordinator, shards)
    return OpenRun(run, Vault(layout, s.merge, makings.backend), cores)


def layout_refusal(settings: SyncerSettings, layout: Layout) -> str:
    """Why a layout cannot be this run's; empty when it can."""
    P = settings.protocol.P
    if layout.num_fragments != P:
        return f"it is cut into {layout.num_fragments} fragments, this run has P = {P}"
    largest = max(encoded_bytes(settings.uplink, each.numel) for each in layout.fragments)
    needed = settings.protocol.quorum * largest
    if needed > settings.service.memory_bytes:
        return (
            f"a quorum's contributions to its largest fragment take {needed} bytes and the syncer "
            f"keeps {settings.service.memory_bytes}: set service.memory_bytes to {2 * needed}"
        )
    return ""


def recover(
    makings: Makings, keeper: du.Keeper, set_clock: Callable[[float], None]
) -> OpenRun | None:
    """The run as it stands on disk; None where it has no layout yet.

    `set_clock` is told the time at which the restored cores stood: theirs must not go back.
    """
    recovered = keeper.store.recover()
    for note in (*keeper.store.notes, *recovered.notes):
        log.warning("store: %s", note)
    return rebuild(makings, recovered, set_clock)


def rebuild(
    makings: Makings, recovered: Recovered, set_clock: Callable[[float], None]
) -> OpenRun | None:
    """The run out of what was read, which need not be owned."""
    run: OpenRun | None = None
    if recovered.state != NO_STATE:
        state = msgspec.json.decode(recovered.state, type=du.SnapshotState)
        _check_numbers(makings.settings, state.numbers)
        run = _from_snapshot(makings, state, recovered.tensors, set_clock)
    for record in recovered.records():
        run = _replay(makings, run, record)
    if run is not None and makings.tapes is not None:
        makings.tapes.begin_payloads(run.vault.layout, makings.settings.merge, run.vault.states())
    return run


def _from_snapshot(
    makings: Makings, state: du.SnapshotState, tensors: Any, set_clock: Callable[[float], None]
) -> OpenRun:
    s, layout = makings.settings, Layout.from_dict(state.layout)
    run = _with_layout(s, layout)
    kept = {party: from_plain(*plain) for party, plain in state.cores.items()}
    set_clock(max(each.now_s for each in kept.values()))
    coordinator = CoordinatorCore.restore(s.protocol, run, kept[COORDINATOR])
    shards = [
        ShardCore.restore(s.protocol, index, run.num_shards, kept[shard_party(index)])
        for index in range(run.num_shards)
    ]
    vault = Vault(layout, s.merge, makings.backend)
    for fragment, (version, digest) in state.versions.items():
        found = state_from(tensors, fragment, version, digest)
        _check_digest(fragment, version, digest_of(found.published.values), digest)
        vault.begin(fragment, found)
    return OpenRun(run, vault, _on_tape(makings, run, coordinator, shards))


def _on_tape(
    makings: Makings, run: RunSettings, coordinator: CoordinatorCore, shards: list[ShardCore]
) -> Cores:
    """The cores, with a tape from before their first event where tapes are kept."""
    tapes = makings.tapes
    cores = Cores(coordinator, shards, makings.clock, tapes.record if tapes else makings.recorder)
    if tapes is not None:
        tapes.begin(cores.parties, makings.settings.protocol, run)
    return cores


def _replay(makings: Makings, run: OpenRun | None, record: Record) -> OpenRun | None:
    if record.kind == du.CHARTER:
        _check_numbers(makings.settings, record.decode(du.CharterRecord).numbers)
        return run
    if record.kind == du.LAYOUT:
        layout = Layout.from_dict(record.decode(du.LayoutRecord).layout)
        return run or begin_run(makings, layout, epoch=record.epoch)
    if run is None:
        raise SyncerError(f"log record {record.lsn} of kind {record.kind} comes before the layout")
    if record.kind == du.INITIAL:
        _replay_initial(run, record)
    elif record.kind == du.MERGE:
        _replay_merge(run, record)
    elif record.kind == du.COORDINATOR_RECORD:
        _replay_persisted(run, record.decode(du.PersistRecord))
    else:
        raise SyncerError(
            f"log record {record.lsn} has kind {record.kind}, unknown to this version of Atoll: "
            "continue this run with the version that wrote it"
        )
    return run


def _replay_initial(run: OpenRun, record: Record) -> None:
    kept = record.decode(du.InitialRecord)
    if run.vault.state(kept.fragment) is not None:
        return
    merger = run.vault.mergers[kept.fragment]
    theta = decode("fp32", record.payloads[0], merger.fragment.numel)
    state = merger.initial(theta)
    _check_digest(kept.fragment, 0, state.published.digest, kept.digest)
    run.vault.begin(kept.fragment, state)
    event = ev.InitialStored(kept.fragment, kept.digest)
    run.cores.replay(run.cores.owner(kept.fragment), event)


def _replay_merge(run: OpenRun, record: Record) -> None:
    kept = record.decode(du.MergeRecord)
    state = run.vault.state(kept.fragment)
    if state is None:
        raise SyncerError(f"log record {record.lsn} merges fragment {kept.fragment}, which is not")
    if kept.version > state.version:
        following, increment = run.vault.mergers[kept.fragment].replay(state, record.payloads[0])
        _check_digest(kept.fragment, kept.version, increment.digest, kept.digest)
        run.vault.advance(kept.fragment, following, increment)
    event = ev.MergeRecovered(
        kept.fragment,
        kept.version,
        kept.digest,
        kept.round,
        kept.marks,
        kept.through,
        kept.merged_tokens,
    )
    run.cores.replay(run.cores.owner(kept.fragment), event)


def _replay_persisted(run: OpenRun, kept: du.PersistRecord) -> None:
    """Shards take part in what they need of it: whose merged work is whose."""
    event = ev.RecordRecovered(kept.number, kept.kind, kept.fields)
    run.cores.replay(COORDINATOR, event)
    if kept.kind == "incarnation":
        fields = dict(kept.fields)
        admitted = msg.Admitted(fields["learner"], int(fields["incarnation"]))
        for index in range(len(run.cores.shards)):
            run.cores.replay(shard_party(index), admitted)


def _with_layout(settings: SyncerSettings, layout: Layout) -> RunSettings:
    sizes = tuple(fragment.numel for fragment in layout.fragments)
    return replace(settings.run, layout=layout.fingerprint(), fragment_sizes=sizes)


def _check_numbers(settings: SyncerSettings, kept: dict[str, Any]) -> None:
    now = settings.numbers()
    for name, value in now.items():
        if kept.get(name) != value:
            raise SyncerError(
                f"{name} = {value}, but this run was begun with {kept.get(name)}: "
                "set it back, or begin a new run under another name"
            )


def _check_digest(fragment: int, version: int, found: str, kept: str) -> None:
    if found != kept:
        raise SyncerError(
            f"version {version} of fragment {fragment} replays to {found[:12]}, published was "
            f"{kept[:12]}: the log or this installation's arithmetic is not what it was; "
            "restore the run's directory from a copy, or use the version of torch that wrote it"
        )
