"""What people and programs see of a running syncer: plain values, read on the control thread.

Changes nothing. The sentence in `waiting` is the coordinator's own, or that of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from atoll import __version__
from atoll.core.membership import Member
from atoll.core.shard import ShardCore
from atoll.core.shard_state import Fragment
from atoll.syncer.participation import degraded, merged_in

if TYPE_CHECKING:
    from atoll.syncer.engine import Engine
    from atoll.syncer.recovery import OpenRun


def status_of(engine: Engine) -> dict[str, Any]:
    """Everything, for `/api/status` and the metrics."""
    around, run = engine.around, engine.run
    counts = around.counts
    plain: dict[str, Any] = {
        "run": around.settings.run.run,
        "version": __version__,
        "epoch": around.keeper.store.epoch,
        "phase": "starting",
        "waiting": "no learner has brought the layout yet",
        "trouble": engine.trouble,
        "degraded": "",
        "connections": len(engine.book.links),
        "contributions": around.intake.sizes(),
        "counts": msgspec.to_builtins(vars(counts)),
        "store": {
            "last_lsn": around.keeper.store.last_lsn,
            "snapshots": len(around.keeper.store.snapshots),
        },
        "notes": list(engine.notes),
    }
    if run is not None:
        plain |= _of_run(run, around.settings.protocol.H)
    if engine.trouble:
        plain["waiting"] = engine.trouble
    return plain


def _of_run(run: OpenRun, H: int) -> dict[str, Any]:
    coordinator = run.cores.coordinator.status()
    members = run.cores.coordinator.state.roster.members
    fragments = [each for shard in run.cores.shards for each in shard.state.fragments]
    return {
        "phase": coordinator["phase"],
        "now_s": run.cores.coordinator.state.now_s,
        "waiting": coordinator["waiting"] or _below_quorum(run),
        "degraded": degraded(members, fragments, H),
        "merged_in": merged_in(fragments),
        "layout": run.vault.fingerprint,
        "coordinator": coordinator,
        "shards": {str(shard.index): _of_shard(shard) for shard in run.cores.shards},
        "learners": {name: _of_member(member) for name, member in sorted(members.items())},
    }


def _below_quorum(run: OpenRun) -> str:
    for shard in run.cores.shards:
        since_s = shard.state.below_quorum_since_s
        if since_s >= 0:
            ago_s = shard.state.now_s - since_s
            return f"shard {shard.index} has been below its quorum for {ago_s:.0f} s"
    return ""


def _of_member(member: Member) -> dict[str, Any]:
    return {
        "incarnation": member.incarnation,
        "state": member.state,
        "connected": member.connected,
        "step": member.step,
        "tokens": member.tokens,
        "pace_s": member.pace_s,
    }


def _of_shard(shard: ShardCore) -> dict[str, Any]:
    state = shard.state
    tally: dict[str, Any] = msgspec.to_builtins(state.tally)
    live = max(1, state.tally.learners_live)
    return {
        "epoch": state.epoch,
        "tally": tally,
        "participation": state.tally.learners_merged / live,
        "fragments": [_of_fragment(each, state.now_s) for each in state.fragments],
    }


def _of_fragment(fragment: Fragment, now_s: float) -> dict[str, Any]:
    doing = "at rest"
    if fragment.final:
        doing = "final"
    elif fragment.merge is not None:
        doing = f"merging version {fragment.merge.version}"
    elif fragment.round is not None:
        here, called = len(fragment.round.arrived), len(fragment.round.expected)
        age_s = now_s - fragment.round.called_s
        doing = f"round {fragment.round.number}: {here} of {called} arrived in {age_s:.1f} s"
    return {
        "fragment": fragment.number,
        "version": fragment.version,
        "digest": fragment.digest,
        "merged_tokens": fragment.merged_tokens,
        "waiting_cuts": len(fragment.fallback),
        "doing": doing,
    }
