"""How much disk a run will want. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

SNAPSHOT_BYTES_PER_PARAM = 12  # parameters, outer momentum and published version, in fp32
LOG_BYTES_PER_PARAM = 2  # one merge of a fragment is logged in bf16


@dataclass(frozen=True)
class DiskNeed:
    """What a run takes on disk, all shards together."""

    snapshot_bytes: int
    num_snapshots: int
    log_bytes_per_s: float
    log_bytes_per_snapshot: int
    payload_bytes: int
    total_bytes: int

    def sentence(self) -> str:
        """For a person."""
        payloads = ""
        if self.payload_bytes:
            payloads = f", {_size(self.payload_bytes)} of contributions beside the tapes"
        return (
            f"{_size(self.total_bytes)}: {self.num_snapshots} snapshots of "
            f"{_size(self.snapshot_bytes)}, log {self.log_bytes_per_s / 1e6:.2f} MB/s, "
            f"{_size(self.log_bytes_per_snapshot)} between snapshots{payloads}"
        )


@dataclass(frozen=True)
class Keeping:
    """What is kept, as far as it takes disk.

    `num_for_good`: snapshots that stay beside the newest. `payload_bytes`: contributions of the
    whole run, where they are kept.
    """

    snapshot_every_s: float = 600.0
    keep_last: int = 2
    num_for_good: int = 0
    payload_bytes: int = 0

    def __post_init__(self) -> None:
        if self.snapshot_every_s <= 0 or self.keep_last < 1:
            raise ValueError(f"disk_need wants positive numbers: {self}")


def disk_need(num_params: int, H: int, step_s: float, keeping: Keeping = Keeping()) -> DiskNeed:
    """Kept snapshots and one being written, and the log from the oldest of the newest on."""
    if num_params <= 0 or H <= 0 or step_s <= 0:
        raise ValueError(f"disk_need wants positive numbers: {num_params=}, {H=}, {step_s=}")
    snapshot_bytes = SNAPSHOT_BYTES_PER_PARAM * num_params
    log_bytes_per_s = LOG_BYTES_PER_PARAM * num_params / (H * step_s)
    log_bytes = round(log_bytes_per_s * keeping.snapshot_every_s)
    newest = keeping.keep_last + 1
    num_snapshots = newest + keeping.num_for_good
    total_bytes = num_snapshots * snapshot_bytes + newest * log_bytes + keeping.payload_bytes
    return DiskNeed(
        snapshot_bytes,
        num_snapshots,
        log_bytes_per_s,
        log_bytes,
        keeping.payload_bytes,
        total_bytes,
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 5e7 else f"{num_bytes / 1e6:.1f} MB"
