"""What the parts of a learner core share: its state and the words it speaks."""

from __future__ import annotations

from atoll.core import effects as fx
from atoll.core import messages as msg
from atoll.core.ids import COORDINATOR, Cut, shard_of, shard_party
from atoll.core.learner_state import (
    NEVER,
    OVER,
    RESTORING,
    Holding,
    LearnerState,
    Transfer,
)
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings


class LearnerDesk:
    """The state of a learner and its small words; decides nothing by itself."""

    def __init__(self, settings: ProtocolSettings, name: str, layout: str):
        self.settings = settings
        self.layout = layout
        self.state = LearnerState(name)
        self.state.holdings = [Holding(number) for number in range(settings.P)]
        self._out: list[fx.Effect] = []

    @property
    def _now(self) -> float:
        return self.state.now_s

    def _epoch_is_right(self, event: object) -> bool:
        """Whatever a party of the syncer said in a lower epoch was said by a fenced one."""
        epoch = getattr(event, "epoch", None)
        if epoch is None:
            return True
        fragment = getattr(event, "fragment", None)
        if fragment is not None and self._holding(fragment) is None:
            self._refuse("malformed", f"there is no fragment {fragment}")
            return False
        if fragment is not None and not self.state.num_shards:
            self._refuse("unasked", "a shard speaks before the welcome")
            return False
        party = self._speaker_of(fragment)
        known = self.state.epochs.get(party, 1)
        if epoch < known:
            self._refuse("old_epoch", f"{party} speaks in epoch {epoch}, known is {known}")
            return False
        return True

    def _keep_epoch(self, event: object) -> None:
        """Only a message that was taken into account may raise the epoch."""
        epoch = getattr(event, "epoch", None)
        if epoch is not None:
            self.state.epochs[self._speaker_of(getattr(event, "fragment", None))] = epoch

    def _speaker_of(self, fragment: int | None) -> str:
        return COORDINATOR if fragment is None else self._shard(fragment)

    def _holding(self, fragment: int) -> Holding | None:
        return self.state.holdings[fragment] if 0 <= fragment < self.settings.P else None

    def _shard(self, fragment: int) -> str:
        return shard_party(shard_of(fragment, max(1, self.state.num_shards)))

    def _shards(self) -> tuple[str, ...]:
        return tuple(shard_party(index) for index in range(self.state.num_shards))

    def _is_mine(self, learner: str, incarnation: int) -> bool:
        return learner == self.state.name and incarnation == self.state.incarnation

    def _transfer(self, number: int) -> Transfer | None:
        for transfer in self.state.transfers:
            if transfer.number == number:
                return transfer
        return None

    def _end_transfer(self, number: int) -> None:
        self.state.transfers = [t for t in self.state.transfers if t.number != number]

    def _forget(self, cut: Cut, code: str) -> None:
        self._end_transfer(cut.id.number)
        self._out.append(fx.Forget(cut.id, cut.fragment, Reason(code, "")))

    def _withdraw(self, holding: Holding, code: str) -> None:
        if holding.cut is not None or holding.install is not None:
            holding.cut = holding.install = None
            self._out.append(fx.Withdraw(holding.number, Reason(code, "")))

    def _report_to(self, parties: tuple[str, ...]) -> None:
        state = self.state
        if state.incarnation:
            report = msg.Report(
                state.name, state.incarnation, state.steps, state.tokens, state.pace_s
            )
            self._send(parties, report, Reason("step", ""))

    def _beat_to(self, parties: tuple[str, ...]) -> None:
        state = self.state
        held = tuple(holding.base for holding in state.holdings)
        moving = [transfer.number for transfer in state.transfers]
        cuts = tuple(
            cut
            for holding in state.holdings
            for cut in holding.ledger.outstanding
            if cut.id.number not in moving
        )
        age_s = self._now - state.stepped_s if state.steps else 0.0
        busy = state.busy or (RESTORING if state.restore.until_s < NEVER else "")
        beat = msg.Beat(state.name, state.incarnation, age_s, state.fetch_s, held, cuts, busy)
        self._send(parties, beat, Reason("beat", ""))

    def _connect(self, party: str) -> None:
        self._out.append(fx.Connect(party, Reason("apart", f"no connection to {party}")))

    def _send(self, to: tuple[str, ...], message: object, reason: Reason) -> None:
        linked = tuple(party for party in to if self.state.links.get(party))
        if linked:
            self._out.append(fx.Send(linked, message, reason))

    def _note(self, code: str, sentence: str) -> None:
        self._out.append(fx.Note(Reason(code, sentence)))

    def _refused(self) -> bool:
        return bool(self._out) and isinstance(self._out[-1], fx.Refuse)

    def _refuse(self, code: str, sentence: str) -> None:
        self._out.append(fx.Refuse(self.state.name, Reason(code, sentence)))

    def _go(self, why: str) -> None:
        leave = msg.Leave(self.state.name, self.state.incarnation, why)
        self._send((COORDINATOR, *self._shards()), leave, Reason("left", why))
        self._over(False, Reason("left", why))

    def _over(self, failed: bool, reason: Reason) -> None:
        for holding in self.state.holdings:
            self._withdraw(holding, reason.code)
            for cut in holding.ledger.outstanding:
                self._out.append(fx.Forget(cut.id, holding.number, reason))
        self.state.transfers = []
        self.state.phase = OVER
        self._out.append(fx.Over(failed, reason))
