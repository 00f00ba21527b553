"""The tapes of a syncer's cores: one for each party, begun before its first event.

Tapes live on the control thread, as the cores do; payloads beside them are written on workers. A
tape or a payload that cannot be written is said once and the run goes on. What is buffered is lost
with a killed process; a replay accepts the torn end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from atoll.core.coordinator_state import RunSettings
from atoll.core.effects import Effect
from atoll.core.ids import COORDINATOR, shard_of, shard_party
from atoll.core.settings import ProtocolSettings
from atoll.fragments import Layout
from atoll.fragments.raw_bytes import byte_view
from atoll.merge.merge import Contribution, FragmentState, MergeResult, MergeSettings
from atoll.store.disk import Buffer
from atoll.syncer.cores import Core
from atoll.tape.format import PAYLOADS, BaseNote, Header, MergeNote
from atoll.tape.numbers import state_bytes, write_merging
from atoll.tape.payloads import ALL, NONE, PayloadFolder, digest_of
from atoll.tape.record import TapeWriter

log = logging.getLogger("atoll.syncer")


class Tapes:
    """A recorder for `Cores`: `begin` with the cores as they are, then `record`.

    `payloads`: contributions and states are kept too, so that a replay can merge again.
    """

    def __init__(self, root: Path, payloads: bool = False):
        self._root = root
        self._keeps_payloads = payloads
        self._writers: dict[str, TapeWriter] = {}
        self._payloads: dict[str, PayloadFolder] = {}
        self._payload_trouble = ""

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

    def note(self, note: MergeNote | BaseNote) -> None:
        """The numbers of a merge, before its shard is told that it is durable."""
        self._say(self._writers[self._owner(note.fragment)].note(note))

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

    # ------------------------------------------------------------ payloads, on any thread

    def begin_payloads(
        self, layout: Layout, settings: MergeSettings, states: Mapping[int, FragmentState]
    ) -> None:
        """Before anything merges: how merges are made, and from which states they go on."""
        keep_merges = ALL if self._keeps_payloads else NONE
        for party in self._writers:
            if party != COORDINATOR:
                self._payloads[party] = PayloadFolder(self._root / party / PAYLOADS, keep_merges)
        if self._keeps_payloads:
            self._guarded(lambda: self._begin_payloads(layout, settings))
            for fragment, state in states.items():
                self.note(self.base_note(fragment, state))

    def _begin_payloads(self, layout: Layout, settings: MergeSettings) -> None:
        for folder in self._payloads.values():
            folder.open()
        write_merging(self._root, layout, settings)

    @property
    def keeps_payloads(self) -> bool:
        """Whether bodies go to disk beside the tapes."""
        return self._keeps_payloads and not self._payload_trouble

    def base_note(self, fragment: int, state: FragmentState) -> BaseNote:
        """Keep a state that merges follow."""
        body = state_bytes(state)
        digest = digest_of(body)
        self._keep(fragment, [(digest, body)])
        return BaseNote(
            fragment=fragment,
            version=state.version,
            published=state.published.digest,
            payload=digest,
        )

    def merge_note(
        self, fragment: int, merged: Sequence[tuple[Contribution, str]], result: MergeResult
    ) -> MergeNote:
        """The numbers of a merge; its contributions come with their digests. Keeps the bodies."""
        delta = ""
        if self.keeps_payloads:
            delta = digest_of(byte_view(result.delta_bytes))
            self._keep(fragment, [(digest, _bytes_of(each)) for each, digest in merged])
        return MergeNote(
            fragment=fragment,
            version=result.increment.version,
            backend=result.backend,
            contributions=tuple((each.name, each.codec, digest) for each, digest in merged),
            delta=delta,
            published=result.increment.digest,
        )

    def _keep(self, fragment: int, bodies: Sequence[tuple[str, Buffer]]) -> None:
        if self.keeps_payloads:
            self._guarded(lambda: self._payloads[self._owner(fragment)].keep(bodies))

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._payload_trouble = f"no more payloads are kept, the run goes on: {error}"
            log.error("%s", self._payload_trouble)

    def _owner(self, fragment: int) -> str:
        return shard_party(shard_of(fragment, len(self._writers) - 1))


def _bytes_of(contribution: Contribution) -> Buffer:
    payload = contribution.payload
    assert isinstance(payload, bytes | bytearray | memoryview), "it came over the network"
    return payload
