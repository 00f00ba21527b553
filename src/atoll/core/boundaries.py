"""What a learner does with its fragments: orders for the next boundary, receipts, transfers.

At most two cuts and ceil(tau * P / H) installs (the first H, where it grows) are ordered for one
boundary. Installs come before cuts, so that a learner slower than the rounds hands in work on the
newest version. Which receipt rule applies follows from whether a cut of this learner was merged.
"""

from __future__ import annotations

import math

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.grace import smooth
from atoll.core.ids import COORDINATOR, Cut, CutId
from atoll.core.learner_desk import LearnerDesk
from atoll.core.learner_state import (
    JOINING,
    LEASES_REMEMBERED,
    LEAVING,
    NEVER,
    OVER,
    TRAINING,
    CutOrdered,
    Holding,
    InstallOrdered,
    Transfer,
)
from atoll.core.reasons import Reason
from atoll.core.weights import scale_of

CUTS_AT_A_BOUNDARY = 2
UPLOADS_QUEUED = 2
POSITIONS_SAID_AGAIN = 8
LONGEST_RETRY_S = 60.0


class Boundaries(LearnerDesk):
    """Orders cuts and installs, and settles their tokens in the ledger."""

    def _boundary(self, event: ev.Boundary) -> None:
        state = self.state
        good = math.isfinite(event.pace_s) and event.pace_s >= 0
        if not good or event.step < state.step or event.tokens < state.position:
            self._refuse("malformed", f"a boundary that goes back, to step {event.step}")
            return
        stepped = event.step > state.step
        state.step, state.position, state.pace_s = event.step, event.tokens, event.pace_s
        if stepped:
            state.stepped_s = self._now
        for fragment in event.installs:
            self._installed(fragment)
        for fragment in event.cuts:
            self._cut(fragment)
        if stepped:
            self._report_to((COORDINATOR, *self._shards()))
            self._say_taken()
        self._check_joined()

    def _cut(self, fragment: int) -> None:
        holding = self._holding(fragment)
        order = holding.cut if holding else None
        if holding is None or order is None:
            self._note("unasked", f"no cut of fragment {fragment} was ordered")
            return
        holding.cut = None
        at = (self.state.steps, self.state.tokens)
        if at[1] <= holding.ledger.origin or at[0] <= holding.ledger.origin_step:
            empty = Reason("empty", "nothing was trained since the last one")
            self._out.append(fx.Forget(order.id, fragment, empty))
            if self.state.phase == TRAINING:
                holding.call = holding.call or order.call
            return
        holding.tried = holding.ledger.origin
        cut = holding.ledger.cut(order.id, fragment, holding.base, order.call, at)
        self.state.transfers.append(Transfer(fragment, cut.id.number))
        announce = msg.Announce(cut)
        self._send((self._shard(fragment),), announce, Reason("cut", f"{cut.tokens} tokens"))

    def _installed(self, fragment: int) -> None:
        holding = self._holding(fragment)
        order = holding.install if holding else None
        if holding is None or order is None:
            self._note("unasked", f"no install of fragment {fragment} was ordered")
            return
        holding.install, holding.base = None, order.version
        holding.fetched = max(holding.fetched, order.version)
        if order.merged > 0:
            _, settled = holding.ledger.merge(order.merged)
            for cut in settled:
                self._forget(cut, "merged" if cut.id.number == order.merged else "replaced")
        if order.rule == "set":
            holding.ledger.give_up(self.state.steps, self.state.tokens, order.code)

    def _check_joined(self) -> None:
        state = self.state
        if state.phase != JOINING or state.restore.waiting:
            return
        if all(holding.base >= 0 for holding in state.holdings):
            state.phase = TRAINING
            self._out.append(fx.Joined(Reason("joined", f"life {state.incarnation} begins")))

    # ------------------------------------------------------------ what the next boundary is to do

    def _plan(self) -> None:
        """Leave orders for the next boundary and start transfers, within the limits."""
        state = self.state
        if state.phase == OVER or not state.incarnation:
            return
        self._plan_fetches()
        self._plan_installs()
        self._plan_cuts()
        self._plan_uploads()
        if state.phase == LEAVING:
            self._leave_when_done()

    def _plan_fetches(self) -> None:
        if not self.state.begun:
            return
        for h in self.state.holdings:
            if h.latest <= max(h.base, h.fetched) or h.fetching >= 0 or h.fetch_again_s < NEVER:
                continue
            if self.state.phase == LEAVING and not self._settles(h):
                continue
            if not self.state.links.get(self._shard(h.number)):
                continue
            h.fetching = h.latest
            reason = Reason("behind", f"holds {h.base}, published is {h.latest}")
            self._out.append(fx.Fetch(h.number, h.latest, h.digest, h.full, reason))

    def _plan_installs(self) -> None:
        """The furthest behind come first, or a slow learner would never come to the last ones."""
        room = self._install_limit() - self._num_installs()
        waiting = [h for h in self.state.holdings if h.base < h.fetched <= h.latest]
        if len(waiting) > room:
            waiting.sort(key=lambda h: (h.base - h.fetched, h.heard_s, h.number))
        for holding in waiting:
            if room <= 0:
                return
            if holding.install is None:
                order = self._receipt(holding)
                if not self._cut_comes_first(holding, order):
                    room -= 1
                    self._order_install(holding, order)

    def _cut_comes_first(self, h: Holding, order: InstallOrdered) -> bool:
        """An install that lets go of work waits while a cut of that work is asked for."""
        lets_go = order.rule == "set" and order.code == "unmerged" and h.base >= 0
        if not lets_go or h.ledger.open(self.state.tokens) == 0:
            return False
        return h.cut is not None or (h.call != 0 and self._may_cut(h))

    def _install_limit(self) -> int:
        if self.state.phase == JOINING:
            return self.settings.P
        return self.settings.installs_at_a_boundary(self.state.tau)

    def _receipt(self, holding: Holding) -> InstallOrdered:
        """Which receipt rule applies follows from whether a cut of this learner was merged."""
        merged = None
        if holding.base < holding.mark_version <= holding.fetched:
            merged = holding.ledger.find(holding.mark_cut)
        order = InstallOrdered(holding.fetched)
        if merged is not None:
            order.merged = merged.id.number
            self._receive_merged(holding, order, merged)
        else:
            self._receive_unmerged(holding, order)
        if holding.base < 0:
            order.rule, order.code = "set", "joined"
        return order

    def _order_install(self, holding: Holding, order: InstallOrdered) -> None:
        holding.install = order
        reason = Reason(order.code, f"version {order.version} of fragment {holding.number}")
        self._out.append(
            fx.InstallOrder(
                holding.number, order.version, order.rule, order.accepted, order.scale, reason
            )
        )

    def _receive_merged(self, holding: Holding, order: InstallOrdered, merged: Cut) -> None:
        order.code = "merged"
        if self.settings.receipt == "overwrite":
            order.rule, order.code = "set", "overwritten"
        elif holding.ledger.holds(merged):
            order.accepted = merged.id.number
            order.scale = scale_of(merged, holding.mark_version - 1, self.settings)
            if self.settings.receipt == "alpha":
                order.rule = "alpha"

    def _receive_unmerged(self, holding: Holding, order: InstallOrdered) -> None:
        """Work is too old when it is long, and had its chance or its base is left behind."""
        steps = self.state.steps - holding.ledger.origin_step
        had_its_chance = holding.tried == holding.ledger.origin and not holding.ledger.covered
        left_behind = order.version - holding.base > self.settings.max_staleness
        if self.settings.unmerged == "drop":
            order.rule, order.code = "set", "unmerged"
        elif steps > self.settings.age_limit_steps and (had_its_chance or left_behind):
            order.rule, order.code = "set", "too_old"

    def _plan_cuts(self) -> None:
        """Answer calls, the longest waiting first; leave at most two uploads queued."""
        if self.state.phase not in (TRAINING, LEAVING):
            return
        ordered = self._num_cuts()
        waiting = [h for h in self.state.holdings if h.call != 0 and self._may_cut(h)]
        if self.state.phase == LEAVING:
            waiting = [h for h in waiting if not self._settles(h)]
        for holding in sorted(waiting, key=lambda h: (h.called_s, h.number)):
            if ordered >= CUTS_AT_A_BOUNDARY:
                return
            if ordered + len(self.state.transfers) >= UPLOADS_QUEUED:
                return
            ordered += 1
            self._order_cut(holding)

    def _may_cut(self, h: Holding) -> bool:
        base = h.install.version if h.install is not None else h.base
        if h.cut is not None or base < 0 or h.latest - base > self.settings.max_staleness:
            return False
        newer_holds_mine = h.mark_version > base and h.ledger.find(h.mark_cut) is not None
        return not newer_holds_mine

    def _order_cut(self, holding: Holding) -> None:
        id = CutId(self.state.name, self.state.incarnation, self.state.next_cut)
        self.state.next_cut += 1
        holding.cut = CutOrdered(id, max(0, holding.call))
        reason = Reason("called" if holding.call > 0 else "leaving", f"round {holding.call}")
        holding.call = 0
        self._out.append(fx.CutOrder(holding.number, id, reason))

    def _num_cuts(self) -> int:
        return len([1 for holding in self.state.holdings if holding.cut is not None])

    def _num_installs(self) -> int:
        return len([1 for holding in self.state.holdings if holding.install is not None])

    def _settles(self, h: Holding) -> bool:
        """Before the last cut, the fate of the one before it: merged, it needs its version here.

        A cut that replaces one which is being merged right now would be void.
        """
        if h.call == 0 or self._now >= self.state.settle_at_s:
            return False
        if h.ledger.open(self.state.tokens) == 0:
            return False
        held = [cut for cut in h.ledger.outstanding if h.ledger.holds(cut)]
        unheard = any(cut.base >= h.latest for cut in held)
        return unheard or h.base < h.mark_version

    def _leave_when_done(self) -> None:
        state = self.state
        waits = any(h.call != 0 and (self._may_cut(h) or self._settles(h)) for h in state.holdings)
        if not state.transfers and not self._num_cuts() and not waits:
            self._go(state.leave_why)

    # ------------------------------------------------------------ transfers

    def _plan_uploads(self) -> None:
        for transfer in self.state.transfers:
            if transfer.under_way or transfer.again_s < NEVER:
                continue
            if self.state.links.get(self._shard(transfer.fragment)):
                cut = self.state.holdings[transfer.fragment].ledger.find(transfer.number)
                assert cut is not None, "a transfer ends with its cut"
                transfer.under_way = True
                self._out.append(fx.Upload(cut, Reason("cut", f"{cut.id}")))

    def _uploaded(self, event: ev.Uploaded) -> None:
        if self._is_mine(event.cut.learner, event.cut.incarnation):
            self._end_transfer(event.cut.number)

    def _upload_failed(self, event: ev.UploadFailed) -> None:
        if not self._is_mine(event.cut.learner, event.cut.incarnation):
            return
        transfer = self._transfer(event.cut.number)
        if transfer is None:
            return
        if event.final:
            self._drop_cut(transfer.fragment, event.cut.number, Reason("refused", event.why))
            return
        transfer.under_way = False
        transfer.pause_s = min(LONGEST_RETRY_S, transfer.pause_s * 2 or self.settings.retry_s)
        transfer.again_s = self._now + transfer.pause_s

    def _fetched(self, event: ev.Fetched) -> None:
        holding = self._holding(event.fragment)
        if holding is None or holding.fetching < 0:
            self._refuse("unasked", f"fragment {event.fragment} was not asked for")
            return
        self.state.fetch_s = smooth(self.state.fetch_s, self._now - holding.heard_s)
        holding.fetching, holding.full = -1, False
        holding.fetched = max(holding.fetched, event.version)

    def _fetch_failed(self, event: ev.FetchFailed) -> None:
        holding = self._holding(event.fragment)
        if holding is None or holding.fetching < 0:
            return
        holding.fetching, holding.full = -1, event.full
        holding.fetch_again_s = self._now + self.settings.retry_s
        self._note("fetch_failed", f"fragment {event.fragment}: {event.why}")

    def _drop_cut(self, fragment: int, number: int, reason: Reason) -> None:
        holding = self.state.holdings[fragment]
        if holding.install is not None and holding.install.merged == number:
            return
        cut = holding.ledger.drop(number, reason.code)
        if cut is None:
            return
        self._end_transfer(number)
        self._out.append(fx.Forget(cut.id, fragment, reason))
        self._note(reason.code, f"{cut.id} was not merged: {reason.sentence}")

    def _say_taken(self) -> None:
        """Data counts as consumed by the step that acknowledged it."""
        state = self.state
        for each in state.taken:
            at = msg.DataPosition(
                each.learner,
                each.incarnation,
                state.tokens,
                each.lease,
                each.position,
                each.finished,
            )
            others = [each for each in state.positions if each.lease != at.lease]
            state.positions = [*others[1 - LEASES_REMEMBERED :], at]
            self._send((COORDINATOR,), at, Reason("data", ""))
        state.taken = []

    def _say_positions(self) -> None:
        """The newest may have been lost on the way, or by a crash of the coordinator."""
        for position in self.state.positions[-POSITIONS_SAID_AGAIN:]:
            self._send((COORDINATOR,), position, Reason("again", ""))

    def _say_position(self, lease: int) -> None:
        """Who grants a lease again does not know that it was begun, and would grant no other."""
        for position in self.state.positions:
            if position.lease == lease:
                self._send((COORDINATOR,), position, Reason("again", ""))
