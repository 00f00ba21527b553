"""How much disk a run will want, before it starts. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

SNAPSHOT_BYTES_PER_PARAM = 12  # parameters, outer momentum and published version, in fp32
LOG_BYTES_PER_PARAM = 2  # one merge of a fragment is logged in bf16


@dataclass(frozen=True)
class DiskNeed:
    """What the store of a run takes on disk, all shards together."""

    snapshot_bytes: int
    log_bytes_per_s: float
    log_bytes_per_snapshot: int
    total_bytes: int

    def sentence(self) -> str:
        """For a person."""
        giga = 1e9
        return (
            f"{self.total_bytes / giga:.1f} GB: snapshots of {self.snapshot_bytes / giga:.1f} GB, "
            f"log {self.log_bytes_per_s / 1e6:.2f} MB/s, "
            f"{self.log_bytes_per_snapshot / giga:.1f} GB between snapshots"
        )


def disk_need(
    num_params: int, H: int, step_s: float, snapshot_every_s: float = 600.0, keep_last: int = 2
) -> DiskNeed:
    """Kept snapshots and one being written, and the log from the oldest kept one on."""
    if num_params <= 0 or H <= 0 or step_s <= 0 or snapshot_every_s <= 0 or keep_last < 1:
        raise ValueError(
            "disk_need wants positive numbers: "
            f"{num_params=}, {H=}, {step_s=}, {snapshot_every_s=}, {keep_last=}"
        )
    snapshot_bytes = SNAPSHOT_BYTES_PER_PARAM * num_params
    log_bytes_per_s = LOG_BYTES_PER_PARAM * num_params / (H * step_s)
    log_bytes = round(log_bytes_per_s * snapshot_every_s)
    total_bytes = (keep_last + 1) * snapshot_bytes + (keep_last + 1) * log_bytes
    return DiskNeed(snapshot_bytes, log_bytes_per_s, log_bytes, total_bytes)
