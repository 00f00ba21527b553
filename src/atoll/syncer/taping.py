"""The tapes of a syncer's cores: one for each party, begun before its first event.

Lives on the control thread, as the cores do. A tape that cannot be written says so once and the
run goes on. What is buffered is lost with a killed process; a replay accepts the torn end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from atoll.core.coordinator_state import RunSettings
from atoll.core.effects import Effect
from atoll.core.ids import COORDINATOR
from atoll.core.settings import ProtocolSettings
from atoll.syncer.cores import Core
from atoll.tape.format import Header
from atoll.tape.record import TapeWriter

log = logging.getLogger("atoll.syncer")


class Tapes:
    """A recorder for `Cores`: `begin` with the cores as they are, then `record`."""

    def __init__(self, root: Path):
        self._root = root
        self._writers: dict[str, TapeWriter] = {}

    def begin(
        self, parties: Mapping[str, Core], protocol: ProtocolSettings, run: RunSettings
    ) -> None:
        """New cores: new tapes."""
        for party, core in parties.items():
            is_coordinator = party == COORDINATOR
            header = Header(
                party=party,
                role="coordinator" if is_coordinator else "shard",
                settings=protocol,
                index=0 if is_coordinator else int(party.rpartition("-")[2]),
                num_shards=run.num_shards,
                layout=run.layout,
                run=run,
            )
            self._writers[party] = TapeWriter(self._root, header, core)
            self._say(self._writers[party].open())

    def record(self, party: str, now_s: float, event: object, effects: Sequence[Effect]) -> None:
        """One event of one core."""
        self._say(self._writers[party].record(now_s, event, effects))

    def flush(self) -> None:
        """Write what is held back."""
        for writer in self._writers.values():
            self._say(writer.flush())

    def close(self) -> None:
        """End every tape properly."""
        for writer in self._writers.values():
            self._say(writer.close())

    def _say(self, reason: str) -> None:
        if reason:
            log.error("%s", reason)
