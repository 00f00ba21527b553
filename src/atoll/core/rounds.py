"""The rounds of a shard: call, collect, close, merge, publish.

A fragment has at most one round or one merge at a time. Only what the driver reports as durable
is published; a merge that fails is asked for again, without the contributions that spoiled it.
"""

from __future__ import annotations

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.grace import grace_s, longest_grace_s, smooth
from atoll.core.ids import COORDINATOR, Cut, Mark
from atoll.core.membership import LIVE, Member
from atoll.core.quorum import ABANDON, THIN, WAIT, Round
from atoll.core.reasons import Reason
from atoll.core.shard_desk import NEVER, ShardDesk
from atoll.core.shard_state import Fragment, Seat
from atoll.core.weights import covered, part_of, weight_left, weight_of

PATIENCE_ROUNDS = 3
CALLS_REMEMBERED = 7
SLOW_STEPS = 2.0
LONGEST_RETRY_S = 60.0


class Rounds(ShardDesk):
    """Opens, judges and closes rounds, and keeps what was merged."""

    def _call_due(self) -> None:
        if self.state.finish_limit_s > 0:
            return
        blocked = [not f.at_rest or f.version < 0 for f in self.state.fragments]
        while (index := self.state.schedule.pick(self._quorum(), blocked)) >= 0:
            blocked[index] = True
            self._call(index, last=False)

    def _call(self, index: int, last: bool) -> None:
        fragment, live = self.state.fragments[index], self.state.roster.names(LIVE)
        fragment.round_number += 1
        fragment.calls = [*fragment.calls[-CALLS_REMEMBERED:], (fragment.round_number, self._now)]
        tau, step_s = self._tau(), self._step_s()
        spent_s = self.state.quorum_wait_s + self._sync_s()
        limit_s = self.state.finish_limit_s if last else self._round_limit_s(live)
        fragment.round = Round(
            fragment.round_number,
            self._now,
            self._now + limit_s,
            grace_s(self.settings, tau, step_s, spent_s),
            longest_grace_s(self.settings, tau, step_s),
            last,
            tau,
        )
        for name in live:
            self._expect(fragment.round, index, name)
        fragment.round.recount(dict.fromkeys(live, True))
        period = self._period(fragment, tau)
        self.state.schedule.called(index, period)
        self._send_call(live, fragment, Reason("due", f"after H = {period} steps"))

    def _period(self, fragment: Fragment, tau: int) -> int:
        """H until the next call. Where it still grows it is no shorter than twice the way round:
        what is done on the way may be overwritten.
        """
        return max(self.settings.period_steps(fragment.version), min(self.settings.H, 2 * tau))

    def _expect(self, round: Round, index: int, name: str) -> None:
        seat, member = self.state.seats[name], self.state.roster.members[name]
        round.expected[name] = max(1, member.tokens - seat.called_tokens[index])
        seat.called_tokens[index] = member.tokens
        if seat.missed[index] >= PATIENCE_ROUNDS and seat.arrive_s > 0:
            seat.missed[index] = 0
            round.patience[name] = self._now + 1.25 * self._there_s(seat, member)
            round.deadline_s = max(round.deadline_s, round.patience[name])

    def _there_s(self, seat: Seat, member: Member) -> float:
        """How long a learner is worth waiting for: its link, however slow, but not slow steps."""
        step_s = self._step_s()
        slow_steps = member.pace_s > SLOW_STEPS * step_s
        return seat.upload_s + seat.fetch_s + step_s if slow_steps else seat.arrive_s + step_s

    def _consider(self, index: int) -> None:
        fragment = self.state.fragments[index]
        if fragment.round is None:
            return
        waited_s = fragment.round.quorum_s
        self._note(fragment.round)
        verdict = self._judge(fragment.round)
        if waited_s == NEVER and fragment.round.quorum_s < NEVER:
            self.state.quorum_wait_s = smooth(
                self.state.quorum_wait_s, self._now - fragment.round.called_s
            )
        if verdict.kind == ABANDON:
            self._abandon(fragment, verdict.reason)
        elif verdict.kind != WAIT:
            self._close(index, verdict.kind == THIN, verdict.reason)

    def _close(self, index: int, thin: bool, reason: Reason) -> None:
        fragment = self.state.fragments[index]
        assert fragment.round is not None and fragment.merge is None
        self._count_missed(index, fragment.round)
        cuts = dict(fragment.round.arrived)
        for name, cut in sorted(fragment.fallback.items()):
            why = self._refusal(cut, fragment)
            if why.code:
                self._drop(cut, why)
            elif name not in cuts:
                cuts[name] = cut
            else:
                self._drop(cut, Reason("replaced", f"the newer cut {cuts[name].id} is in"))
        fragment.fallback.clear()
        fragment.last_called = fragment.round.last
        to_come = self._weight_to_come(index, [n for n in fragment.round.expected if n not in cuts])
        fragment.round = None
        fragment.closed_s = self._now
        some = [cuts[name] for name in sorted(cuts)]
        self._ask_merge(fragment, some, to_come, (thin, reason))

    def _weight_to_come(self, index: int, absent: list[str]) -> float:
        """Of live learners whose work missed this round, and comes with a later one."""
        weight = 0.0
        for name in sorted(absent) if self.settings.unmerged == "carry" else ():
            member = self.state.roster.members.get(name)
            if member is not None and member.state == LIVE and member.step > 0:
                pace = member.tokens / member.step
                steps = self.settings.period_steps(self.state.fragments[index].version)
                weight += weight_of(steps, pace, self.settings)
        return weight

    def _ask_merge(
        self, fragment: Fragment, cuts: list[Cut], to_come: float, how: tuple[bool, Reason]
    ) -> None:
        assert cuts, "a merge of nothing"
        thin, reason = how
        version = fragment.version + 1
        tokens = fragment.merged_tokens
        for cut in cuts:
            tokens += cut.tokens
        fragment.merge = fx.Merge(
            fragment.number,
            version,
            fragment.round_number,
            covered([part_of(cut, fragment.version, self.settings) for cut in cuts], to_come),
            tuple(Mark(c.id.learner, c.id.incarnation, c.id.number, version) for c in cuts),
            tuple((c.id.learner, c.id.incarnation, c.end_token) for c in cuts),
            tokens,
            thin,
            reason,
        )
        self._out.append(fragment.merge)

    def _count_missed(self, index: int, round: Round) -> None:
        tally = self.state.tally
        for name in round.expected:
            if name in round.arrived:
                self.state.seats[name].missed[index] = 0
                tally.learners_live += 1
            elif name in self.state.roster.members:
                self.state.seats[name].missed[index] += 1
                tally.learners_live += int(self.state.roster.members[name].state == LIVE)

    def _abandon(self, fragment: Fragment, reason: Reason) -> None:
        assert fragment.round is not None
        for _, cut in sorted(fragment.round.arrived.items()):
            self._keep_for_later(fragment, cut)
        last, fragment.round = fragment.round.last, None
        self.state.tally.abandoned += 1
        self._out.append(fx.Note(reason))
        if last:
            self._finalize(fragment)

    def _keep_for_later(self, fragment: Fragment, cut: Cut) -> None:
        """A cut missed its version: it waits, unless a newer one of its learner does."""
        newer = fragment.fallback.setdefault(cut.id.learner, cut)
        if newer is not cut:
            self._drop(cut, Reason("replaced", f"the newer cut {newer.id} holds its work"))

    # ------------------------------------------------------------ merges

    def _merged(self, event: ev.Merged) -> None:
        fragment = self._fragment(event.fragment)
        merge = fragment.merge if fragment else None
        if fragment is None or merge is None or merge.version != event.version:
            self._refuse("driver", "unasked", f"no merge of {event.fragment} was asked for")
            return
        self.state.merge_s = smooth(self.state.merge_s, self._now - fragment.closed_s)
        fragment.merge, fragment.retry_pause_s, fragment.retry_at_s = None, 0.0, NEVER
        self._apply(fragment, event.version, event.digest, merge.marks, merge.through)
        fragment.merged_tokens = merge.merged_tokens
        self._tally_merge(merge)
        for name, cut in sorted(fragment.fallback.items()):
            why = self._refusal(cut, fragment)
            if why.code:
                del fragment.fallback[name]
                self._drop(cut, why)
        fragment.published_s = self._now
        self._publish_to(self._connected_names(), fragment, "merged")
        self._send((COORDINATOR,), self._settled(fragment), Reason("merged", ""))
        self._forget_the_gone(fragment)
        if fragment.last_called:
            self._finalize(fragment)
        elif self.state.finish_limit_s > 0:
            self._call_last(self._index(fragment.number))
        else:
            self._call_due()

    def _forget_the_gone(self, fragment: Fragment) -> None:
        """Let go of lives that are over for good, or islands under ever new names would pile up."""
        state = self.state
        for name in [n for n, s in state.seats.items() if s.left and self._is_gone(n, s)]:
            del state.seats[name]
        for name, mark in list(fragment.marks.items()):
            if name not in state.seats and state.over.get(name, 0) >= mark.incarnation:
                del fragment.marks[name]

    def _is_gone(self, name: str, seat: Seat) -> bool:
        """Whether a life is known to be over, with nothing of it still to be merged."""
        if self.state.over.get(name, 0) < seat.incarnation:
            return False
        for fragment in self.state.fragments:
            round, merge = fragment.round, fragment.merge
            if name in fragment.fallback or (round is not None and name in round.expected):
                return False
            if merge is not None and any(part.cut.id.learner == name for part in merge.parts):
                return False
        return True

    def _merge_failed(self, event: ev.MergeFailed) -> None:
        fragment = self._fragment(event.fragment)
        merge = fragment.merge if fragment else None
        if fragment is None or merge is None or merge.version != event.version:
            self._refuse("driver", "unasked", f"no merge of {event.fragment} was asked for")
            return
        bad = [part.cut for part in merge.parts if part.cut.id in event.bad]
        if not bad:
            pause_s = min(LONGEST_RETRY_S, fragment.retry_pause_s * 2 or self.settings.retry_s)
            fragment.retry_pause_s, fragment.retry_at_s = pause_s, self._now + pause_s
            text = (
                f"fragment {fragment.number} is not merged ({event.detail}); again in {pause_s} s"
            )
            self._out.append(fx.Note(Reason(event.code, text)))
            return
        for cut in bad:
            self._count_refused(event.code)
            self._drop(cut, Reason(event.code, f"{cut.id} spoiled a merge: {event.detail}"))
        fragment.merge = None
        rest = [part.cut for part in merge.parts if part.cut not in bad]
        good = [cut for cut in rest if not self._refusal(cut, fragment).code]
        for cut in rest:
            if cut not in good:
                self._drop(cut, self._refusal(cut, fragment))
        if len(good) >= self._quorum():
            kept = [part for part in merge.parts if part.cut in good]
            to_come = weight_left(merge.parts, kept, fragment.version, self.settings)
            self._ask_merge(fragment, good, to_come, (merge.thin, merge.reason))
            return
        for cut in good:
            self._keep_for_later(fragment, cut)
        self.state.tally.abandoned += 1
        if fragment.last_called:
            self._finalize(fragment)
        elif self.state.finish_limit_s > 0:
            self._call_last(self._index(fragment.number))

    def _apply(
        self,
        fragment: Fragment,
        version: int,
        digest: str,
        marks: tuple[Mark, ...],
        through: tuple[tuple[str, int, int], ...],
    ) -> None:
        assert version == fragment.version + 1, "versions rise by one"
        fragment.version, fragment.digest = version, digest
        index = self._index(fragment.number)
        for mark in marks:
            fragment.marks[mark.learner] = mark
        for name, incarnation, end_token in through:
            seat = self.state.seats.get(name)
            if seat is not None and seat.incarnation == incarnation:
                assert end_token > seat.through[index], "work is counted once"
                seat.through[index] = end_token

    def _tally_merge(self, merge: fx.Merge) -> None:
        tally = self.state.tally
        tally.merges += 1
        tally.thin += int(merge.thin)
        tally.solo += int(len(merge.parts) == 1)
        tally.learners_merged += len(merge.parts)
        for part in merge.parts:
            tally.steps_merged += part.cut.steps

    def _initial_stored(self, event: ev.InitialStored) -> None:
        fragment = self._fragment(event.fragment)
        if fragment is None:
            self._refuse("driver", "unasked", f"fragment {event.fragment} is not of this shard")
            return
        ready = msg.FragmentReady(fragment.number)
        self._send((COORDINATOR,), ready, Reason("ready", "version 0 is durable"))
        if fragment.version >= 0:
            return
        fragment.version, fragment.digest, fragment.published_s = 0, event.digest, self._now
        self._publish_to(self._connected_names(), fragment, "initial")

    # ------------------------------------------------------------ last rounds

    def _call_last(self, index: int) -> None:
        fragment = self.state.fragments[index]
        if not self.state.roster.names(LIVE):
            self._finalize(fragment)
            return
        self._call(index, last=True)

    def _finalize(self, fragment: Fragment) -> None:
        for _, cut in sorted(fragment.fallback.items()):
            self._drop(cut, Reason("closed", "the fragment has had its last round"))
        fragment.fallback.clear()
        fragment.final = True
        self._send_final(fragment)

    def _send_final(self, fragment: Fragment) -> None:
        final = msg.FragmentFinal(fragment.number, fragment.version)
        self._send((COORDINATOR,), final, Reason("final", "the last round is over"))
