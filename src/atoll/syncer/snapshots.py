"""When to write a snapshot, and what goes into it. The writing is a worker's."""

from __future__ import annotations

from atoll.syncer.durable import SnapshotJob, SnapshotState
from atoll.syncer.recovery import OpenRun
from atoll.syncer.settings import ServiceSettings, SyncerSettings
from atoll.syncer.vault import tensors_of
from atoll.wire.records import to_plain


class SnapshotPlan:
    """Every so many changes, after so long with any, or at tokens for which one is kept. One at a
    time.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._changes = 0
        self._last_s = 0.0
        self._last_tokens = 0
        self._under_way = False

    def began(self, now_s: float, tokens: int) -> None:
        """Time and tokens count from here: `tokens` is what the newest snapshot stands for."""
        self._last_s, self._last_tokens = now_s, tokens

    def changed(self) -> None:
        """A record more to replay."""
        self._changes += 1

    def take(self, now_s: float, tokens: int) -> bool:
        """Whether one is due now; then it counts as begun."""
        many = self._changes >= self._settings.snapshot_every_merges
        long_ago = self._changes > 0 and now_s >= self._last_s + self._settings.snapshot_every_s
        kept = self._changes > 0 and self._settings.retention.is_due(self._last_tokens, tokens)
        if self._under_way or not (many or long_ago or kept):
            return False
        self._under_way, self._changes, self._last_s = True, 0, now_s
        self._last_tokens = tokens
        return True

    def done(self, failed: bool) -> None:
        """It is written; or was not, and is tried again when the next one is due."""
        self._under_way = False
        self._changes += int(failed)


def snapshot_job(run: OpenRun, settings: SyncerSettings, upto_lsn: int) -> SnapshotJob:
    """The run at this moment: cores are copied, tensors are immutable and only referred to."""
    states = run.vault.states()
    versions = {p: (each.version, each.published.digest) for p, each in states.items()}
    cores = {party: to_plain(core.snapshot()) for party, core in run.cores.parties.items()}
    state = SnapshotState(settings.numbers(), run.vault.layout.to_dict(), versions, cores)
    trained = run.cores.coordinator.state.trained
    return SnapshotJob(state, tensors_of(states), upto_lsn, trained)
