"""What the parts of a shard core share: its state, its small words, and its measured times."""

from __future__ import annotations

from atoll.core import effects as fx
from atoll.core import messages as msg
from atoll.core.admission import refusal
from atoll.core.grace import fewest_steps, median
from atoll.core.ids import Cut, fragments_of
from atoll.core.membership import LIVE, Member
from atoll.core.quorum import Round, Verdict, judge, note
from atoll.core.reasons import Reason
from atoll.core.schedule import Schedule
from atoll.core.settings import ProtocolSettings
from atoll.core.shard_state import Fragment, Seat, ShardState

NEVER = float("inf")


class ShardDesk:
    """The state of a shard and the words it speaks; decides nothing by itself."""

    def __init__(self, settings: ProtocolSettings, index: int, num_shards: int, epoch: int = 1):
        owned = fragments_of(index, num_shards, settings.P)
        assert owned, "a shard without fragments has nothing to decide"
        self.settings = settings
        self.index = index
        self.num_shards = num_shards
        self.state = ShardState(
            epoch, [Fragment(number) for number in owned], Schedule.of(owned, settings)
        )
        self._out: list[fx.Effect] = []

    # ------------------------------------------------------------ measured times

    def _quorum(self) -> int:
        quorum = self.settings.quorum
        if self.settings.on_quorum_loss == "degrade":
            return max(1, min(quorum, self.state.schedule.num_counted))
        return quorum

    def _judge(self, round: Round) -> Verdict:
        return judge(round, self._quorum(), self._now)

    def _note(self, round: Round) -> None:
        note(round, self._quorum(), self.settings.min_token_share, self._now)

    def _live_members(self) -> list[tuple[Seat, Member]]:
        members = self.state.roster.members
        seats = self.state.seats
        return [(seats[n], members[n]) for n in self.state.roster.names(LIVE)]

    def _step_s(self) -> float:
        return median([m.pace_s for _, m in self._live_members() if m.pace_s > 0])

    def _sync_s(self) -> float:
        return self.state.merge_s + median([seat.fetch_s for seat, _ in self._live_members()])

    def _tau(self) -> int:
        if self.settings.tau != "auto":
            return self.settings.tau
        step_s = self._step_s()
        arrivals = [seat.arrive_s for seat, _ in self._live_members() if seat.arrive_s > 0]
        needed_s = median(arrivals) + step_s / 2 + self._sync_s() if arrivals else NEVER
        if needed_s == NEVER:
            return min(2, self.settings.tau_limit_steps)
        return fewest_steps(self.settings, step_s, needed_s)

    def _round_limit_s(self, live: tuple[str, ...]) -> float:
        seats = [self.state.seats[name] for name in live]
        if any(seat.arrive_s <= 0 for seat in seats):
            return self.settings.first_round_s
        paces = [self.state.roster.members[name].pace_s for name in live]
        slowest_s = max(
            (2 * s.arrive_s + p for s, p in zip(seats, paces, strict=True)), default=0.0
        )
        return max(self.settings.min_round_s, slowest_s)

    # ------------------------------------------------------------ small words

    @property
    def _now(self) -> float:
        return self.state.now_s

    def _index(self, number: int) -> int:
        return number // self.num_shards

    def _fragment(self, number: int) -> Fragment | None:
        if number < 0 or number % self.num_shards != self.index:
            return None
        index = self._index(number)
        return self.state.fragments[index] if index < len(self.state.fragments) else None

    def _has(self, fragment: Fragment, cut: Cut) -> bool:
        name = cut.id.learner
        here = [fragment.fallback.get(name)]
        if fragment.round is not None:
            here.append(fragment.round.arrived.get(name))
        if any(each is not None and each.id == cut.id for each in here):
            return True
        merge = fragment.merge
        return merge is not None and any(part.cut.id == cut.id for part in merge.parts)

    def _refusal(self, cut: Cut, fragment: Fragment) -> Reason:
        seat = self.state.seats.get(cut.id.learner)
        if seat is None:
            return Reason("stale_incarnation", f"no present life of {cut.id.learner}")
        through = seat.through[self._index(fragment.number)]
        reason = refusal(cut, fragment, seat, through, self.settings)
        if not reason.code and cut.id.number <= seat.dropped.get(fragment.number, 0):
            return Reason("dropped", f"{cut.id} or a newer one was dropped before")
        return reason

    def _connected_names(self) -> tuple[str, ...]:
        members = self.state.roster.members
        return tuple(sorted(name for name, member in members.items() if member.connected))

    def _settled(self, fragment: Fragment) -> msg.Settled:
        index = self._index(fragment.number)
        through = tuple(
            (name, seat.incarnation, seat.through[index])
            for name, seat in sorted(self.state.seats.items())
        )
        return msg.Settled(fragment.number, fragment.version, fragment.merged_tokens, through)

    def _publish_to(self, names: tuple[str, ...], fragment: Fragment, code: str) -> None:
        if names:
            marks = tuple(mark for _, mark in sorted(fragment.marks.items()))
            self._send(
                names,
                msg.Published(
                    self.state.epoch, fragment.number, fragment.version, fragment.digest, marks
                ),
                Reason(code, f"version {fragment.version} of fragment {fragment.number}"),
            )

    def _send_call(self, names: tuple[str, ...], fragment: Fragment, reason: Reason) -> None:
        assert fragment.round is not None, "only an open round calls"
        call = msg.Call(
            self.state.epoch, fragment.number, fragment.round_number, fragment.round.tau
        )
        self._send(names, call, reason)

    def _drop(self, cut: Cut, reason: Reason, tell: bool = True) -> None:
        dropped = self.state.tally.dropped
        dropped[reason.code] = dropped.get(reason.code, 0) + 1
        self._keep_dropped(cut)
        self._out.append(fx.Discard(cut.id, cut.fragment, reason))
        if tell:
            self._tell_dropped(cut, reason)

    def _keep_dropped(self, cut: Cut) -> None:
        """A fate is final: a second upload of the same cut must not bring it back."""
        fragment, seat = self._fragment(cut.fragment), self.state.seats.get(cut.id.learner)
        if fragment is not None and seat is not None and not self._refusal(cut, fragment).code:
            seat.dropped[fragment.number] = cut.id.number

    def _tell_dropped(self, cut: Cut, reason: Reason) -> None:
        """Tell a fate, unless it stands in a version that the learner is about to install."""
        fragment = self._fragment(cut.fragment)
        mark = fragment.marks.get(cut.id.learner) if fragment else None
        if mark and mark.incarnation == cut.id.incarnation and mark.cut >= cut.id.number:
            return
        told = msg.Dropped(self.state.epoch, cut.id, cut.fragment, reason.code, reason.sentence)
        self._send((cut.id.learner,), told, reason)

    def _count_refused(self, code: str) -> None:
        refused = self.state.tally.refused
        refused[code] = refused.get(code, 0) + 1

    def _send(self, to: tuple[str, ...], message: object, reason: Reason) -> None:
        self._out.append(fx.Send(to, message, reason))

    def _refuse(self, who: str, code: str, sentence: str) -> None:
        self._out.append(fx.Refuse(who, Reason(code, sentence)))
