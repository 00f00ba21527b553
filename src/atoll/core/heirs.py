"""Inner optimizer state, a learner's side: asking for a peer's while it joins, and lending its own.

Joining waits for a peer's state no longer than its deadline; whatever comes of it is settled once,
before `Joined`, and never changed afterwards. All fragments come from one donor, or none is taken.
A donor copies one fragment at a boundary, when it is asked for that one, and waits for nobody.
"""

from __future__ import annotations

import math

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.boundaries import Boundaries
from atoll.core.ids import COORDINATOR, NO_TRANSFER, TransferId
from atoll.core.learner_state import APART, NEVER, TRAINING, Lending, Restore
from atoll.core.reasons import Reason

UNWANTED = "unwanted"
GIVEN_UP = "given_up"


class Heirs(Boundaries):
    """Asks, takes and lends inner state."""

    # ------------------------------------------------------------ the heir

    def _restore_asked(self, event: ev.RestoreAsked) -> None:
        good = event.kind and math.isfinite(event.limit_s) and event.limit_s > 0
        if self.state.phase != APART or not good:
            self._refuse("unasked", "inner state is asked for before joining, with a deadline")
            return
        self.state.restore = Restore(event.kind, event.limit_s, waiting=True)

    def _ask_inner(self) -> None:
        """Say what is wanted and how far it is; the coordinator repairs what was lost."""
        state, restore = self.state, self.state.restore
        if not restore.waiting or not state.begun or not state.incarnation:
            return
        if not state.links.get(COORDINATOR):
            return
        if restore.until_s == NEVER:
            restore.until_s = self._now + restore.limit_s
            self._beat_to(self._shards())
        ask = msg.AskInner(
            state.name,
            state.incarnation,
            restore.kind,
            max(0.0, restore.until_s - self._now),
            restore.transfer.attempt,
            restore.taken,
        )
        self._send((COORDINATOR,), ask, Reason("restore", f"{restore.taken} fragments are here"))

    def _begin_again(self) -> None:
        """Another donor, or another life: what came so far is of no use."""
        restore = self.state.restore
        restore.transfer, restore.donor, restore.taken = NO_TRANSFER, "", 0
        restore.fetching = False
        restore.sizes, restore.digests = {}, {}

    def _inner_here(self, event: msg.InnerHere) -> None:
        restore, transfer = self.state.restore, event.transfer
        if transfer.heir != self.state.incarnation or event.size_bytes < 1:
            self._refuse("foreign", f"inner state of transfer {transfer}")
            return
        known = 0 <= event.index < self.settings.P
        if not known or not restore.waiting or transfer.attempt < restore.transfer.attempt:
            self._refuse("unasked", f"inner state {event.index} of transfer {transfer}")
            return
        if transfer != restore.transfer:
            self._begin_again()
            restore.transfer, restore.donor = transfer, event.donor
        restore.sizes[event.index] = event.size_bytes
        restore.digests[event.index] = event.digest
        self._fetch_inner()

    def _fetch_inner(self) -> None:
        restore = self.state.restore
        index = restore.taken
        if restore.fetching or index not in restore.sizes:
            return
        restore.fetching = True
        size_bytes, digest = restore.sizes[index], restore.digests[index]
        reason = Reason("restore", f"fragment {index} from {restore.donor}")
        self._out.append(fx.FetchInner(restore.transfer, index, size_bytes, digest, reason))

    def _inner_fetched(self, event: ev.InnerFetched) -> None:
        restore = self.state.restore
        if not self._is_fetched(event.transfer, event.index):
            return
        restore.fetching = False
        restore.taken += 1
        self._ask_inner()
        if restore.taken < self.settings.P:
            self._fetch_inner()
            return
        text = f"all {restore.taken} fragments came from {restore.donor}"
        self._settle(restore.donor, Reason("peer", text))

    def _inner_fetch_failed(self, event: ev.InnerFetchFailed) -> None:
        restore = self.state.restore
        if not self._is_fetched(event.transfer, event.index):
            return
        restore.fetching = False
        restore.sizes.pop(event.index)
        self._note("restore", f"inner state from {restore.donor}: {event.why}")
        if event.unfit:
            self._say_over(event.transfer, "unfit", event.why)

    def _is_fetched(self, transfer: TransferId, index: int) -> bool:
        """Whether this is what is being fetched; an earlier try's comes too late."""
        restore = self.state.restore
        mine = restore.waiting and restore.fetching
        return mine and (restore.transfer, restore.taken) == (transfer, index)

    def _inner_none(self, event: msg.InnerNone) -> None:
        if self.state.restore.waiting:
            self._settle("", Reason(event.code, event.sentence))
        else:
            self._refuse("unasked", "no inner state is waited for")

    def _restore_is_late(self) -> None:
        restore = self.state.restore
        text = f"{restore.taken} of {self.settings.P} fragments came in {restore.limit_s:g} s"
        if restore.transfer != NO_TRANSFER:
            text += f" from {restore.donor}"
        else:
            text = f"no peer was found in {restore.limit_s:g} s"
        self._say_over(restore.transfer, GIVEN_UP, text)
        self._settle("", Reason("late", text))

    def _settle(self, donor: str, reason: Reason) -> None:
        restore = self.state.restore
        assert restore.waiting, "whose state is taken is settled once"
        transfer = restore.transfer if donor else NO_TRANSFER
        self.state.restore = Restore()
        self._out.append(fx.Inherit(transfer, donor, reason))
        self._check_joined()

    # ------------------------------------------------------------ the donor

    def _lend_inner(self, event: msg.LendInner) -> None:
        state, transfer = self.state, event.transfer
        if transfer.donor != state.incarnation or not 0 <= event.index < self.settings.P:
            self._refuse("foreign", f"inner state {event.index} for transfer {transfer}")
            return
        if state.phase != TRAINING:
            self._say_over(transfer, "away", f"{state.name} is {state.phase}")
            return
        asked = Lending(transfer, event.index)
        if state.lending == asked:
            return
        state.lending = asked
        reason = Reason("lend", f"inner state of fragment {event.index} for transfer {transfer}")
        self._out.append(fx.CopyInner(transfer, event.index, event.kind, reason))

    def _inner_sent(self, event: ev.InnerSent) -> None:
        if self.state.lending == Lending(event.transfer, event.index):
            self.state.lending = Lending()

    def _inner_not_sent(self, event: ev.InnerNotSent) -> None:
        if self.state.lending != Lending(event.transfer, event.index):
            return
        self.state.lending = Lending()
        if event.code != UNWANTED:
            self._say_over(event.transfer, event.code, event.why)

    def _say_over(self, transfer: TransferId, code: str, why: str) -> None:
        over = msg.InnerOver(self.state.name, self.state.incarnation, transfer, code, why)
        self._send((COORDINATOR,), over, Reason(code, why))
