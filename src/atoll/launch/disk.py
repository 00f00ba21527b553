"""The disk that a run wants, from its settings and the pace of its learners."""

from __future__ import annotations

from atoll.merge.codecs import encoded_bytes
from atoll.runfile.settings import RunFile
from atoll.store.estimate import DiskNeed, Keeping, disk_need


def need_of(run_file: RunFile, num_params: int, step_s: float) -> DiskNeed:
    """Up to the end of the run. Payloads beside the tapes count only where they are kept."""
    run, protocol, service = run_file.syncer.run, run_file.syncer.protocol, run_file.syncer.service
    merges_s = protocol.H * step_s * service.snapshot_every_merges / protocol.P
    marks = 0
    if service.keep_every_tokens:
        marks = run.budget_tokens // service.keep_every_tokens
    payload_bytes = 0
    if service.tape_payloads:
        rounds = run.budget_tokens / run_file.train.step_tokens / protocol.H
        payload_bytes = round(rounds * encoded_bytes(run_file.syncer.uplink, num_params))
    keeping = Keeping(
        snapshot_every_s=min(service.snapshot_every_s, merges_s),
        keep_last=service.keep_snapshots,
        num_for_good=marks + len(service.pinned_snapshots),
        payload_bytes=payload_bytes,
    )
    return disk_need(num_params, protocol.H, step_s, keeping)
