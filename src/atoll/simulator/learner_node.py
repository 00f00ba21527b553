"""A learner process in virtual time: a training loop, and the driver of its core."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.hand import LeaseHand
from atoll.core.ids import COORDINATOR, Cut
from atoll.core.learner import LearnerCore
from atoll.core.learner_state import JOINING, LEAVING, OVER, TRAINING
from atoll.simulator.inner import InnerWay
from atoll.simulator.network import Island
from atoll.simulator.wire import Wire

if TYPE_CHECKING:
    from atoll.simulator.world import World

RECONNECT_S = 0.5
ITEMS_PER_STEP = 4
"""Items of the data set that a simulated step trains on."""


class LearnerNode:
    """One island. A killed process leaves nothing; a new one begins with the same name."""

    def __init__(self, world: World, island: Island):
        self.world = world
        self.island = island
        self.name = island.name
        self.core = LearnerCore(world.settings, island.name, world.layout)
        self.life = 0
        self.alive = False
        self.frozen = False
        self.link_up = True
        self.stalled_until_s = 0.0
        self.corrupt_next = ""
        self.connections: dict[str, int] = {}
        self.cuts: dict[int, fx.CutOrder] = {}
        self.installs: dict[int, fx.InstallOrder] = {}
        self.step = 0
        self.tokens = 0
        self.last_boundary_s = 0.0
        self.pace_s = 0.0
        self.waiting: list[Callable[[], None]] = []
        self.over_code = ""
        self.hand = LeaseHand()
        self.repeats = 0
        self.sizes = world.conditions.sizes
        self.wire = Wire(
            lambda: self.island.link, lambda: world.clock.now_s, world.conditions.window_s
        )
        self.inner = InnerWay(world, self, self._later, self._bulk_broken)

    # ------------------------------------------------------------ the process

    def start(self) -> None:
        """A fresh process joins under the island's name."""
        assert not self.alive
        self.life += 1
        self.alive, self.frozen = True, False
        self.core = LearnerCore(self.world.settings, self.name, self.world.layout)
        self.cuts, self.installs = {}, {}
        self.connections, self.waiting = {}, []
        self.step = self.tokens = 0
        self.pace_s = 0.0
        self.over_code = ""
        self.hand, self.repeats = LeaseHand(), 0
        self.world.payload.start(self.name)
        self.inner = InnerWay(self.world, self, self._later, self._bulk_broken)
        self.inner.ask()
        self.tell(ev.JoinAsked(f"{self.name}#{self.life}"))
        self._schedule_step()

    def kill(self) -> None:
        """SIGKILL: gone, with everything in its memory."""
        if not self.alive:
            return
        self.alive = False
        self.drop_connections("the process is gone", told=False)
        self.world.payload.stop(self.name)

    def freeze(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while: what arrives meanwhile waits."""
        self.frozen = True
        life = self.life

        def thaw() -> None:
            if self.life == life and self.alive:
                self.frozen = False
                waiting, self.waiting = self.waiting, []
                for action in waiting:
                    action()

        self.world.clock.after(for_s, thaw)

    def stall(self, for_s: float) -> None:
        """The loop does something else; the ferry lives."""
        self.stalled_until_s = self.world.clock.now_s + for_s

    def leave(self, limit_s: float = 30.0) -> None:
        """The loop is over."""
        self.tell(ev.LeaveAsked("the loop is over", limit_s))

    def cut_link(self) -> None:
        """No byte passes until `mend_link`."""
        self.link_up = False
        self.drop_connections("the link is cut", told=True)

    def mend_link(self) -> None:
        """Bytes pass again."""
        self.link_up = True

    # ------------------------------------------------------------ driving the core

    def tell(self, event: object) -> None:
        """Hand an event to the core and carry out what it wants."""
        if not self.alive:
            return
        if self.frozen:
            self.waiting.append(lambda: self.tell(event))
            return
        for effect in self.world.handle(self.name, self.core, event):
            self._carry_out(effect)
        self.world.arm(self.name, self.core, lambda: self.tell(ev.Tick()), lambda: self.life)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                for party in effect.to:
                    self.world.send_up(self, party, effect.message)
            case fx.CutOrder():
                self.cuts[effect.fragment] = effect
            case fx.InstallOrder():
                self.installs[effect.fragment] = effect
                if self.core.state.phase == JOINING:
                    self._later(0.0, self._boundary)
            case fx.Withdraw():
                self.cuts.pop(effect.fragment, None)
                self.installs.pop(effect.fragment, None)
            case fx.Upload():
                self._upload(effect.cut)
            case fx.Fetch():
                self._fetch(effect)
            case fx.Forget():
                self.world.payload.forget(self.name, effect.fragment, effect.cut.number)
            case fx.Connect():
                self._connect(effect.party)
            case fx.UploadInitial():
                self._upload_initial()
            case fx.CopyInner() | fx.FetchInner() | fx.Inherit():
                self.inner.carry_out(effect)
            case fx.UseLease():
                self.hand.begin_life(self.core.state.incarnation)
                self.hand.take(effect.lease)
            case fx.Joined() if self.world.run.dataset_items:
                self._later(0.0, self._ask_for_data)
            case fx.Over():
                self.over_code = effect.reason.code
                self.drop_connections("left", told=False)
            case _:
                pass

    # ------------------------------------------------------------ the training loop

    def _schedule_step(self) -> None:
        self._later(self._step_s(), self._loop)

    def _step_s(self) -> float:
        jitter = 1 + self.island.step_jitter * (2 * self.world.dice.random() - 1)
        return self.island.step_s * jitter

    def _train(self) -> int:
        """One inner step; how many tokens it trained on."""
        return self.world.payload.step(self.name)

    def _loop(self) -> None:
        phase = self.core.state.phase
        if phase == OVER:
            return
        if self.world.clock.now_s >= self.stalled_until_s:
            if phase == TRAINING:
                self.tokens += self._train()
                self.step += 1
                self._pace()
                self._use_data()
            if phase in (TRAINING, LEAVING):
                self._boundary()
        self._schedule_step()

    def _pace(self) -> None:
        self.pace_s = self.pace_s or self.island.step_s
        self.pace_s += 0.2 * (self.island.step_s - self.pace_s)

    def _use_data(self) -> None:
        """The step was done on what is in hand; what is missing is taken from data seen before."""
        if not self.world.run.dataset_items:
            return
        state = self.core.state
        self.hand.begin_life(state.incarnation)
        spans = self.hand.draw(ITEMS_PER_STEP)
        self.hand.give(spans)
        life_tokens = self.tokens - state.life_position
        num_items = self.world.watch.trained(self.name, state.incarnation, life_tokens, spans)
        self.repeats += ITEMS_PER_STEP - num_items
        for taken in self.hand.acknowledge():
            self.tell(taken)

    def _ask_for_data(self) -> None:
        self.hand.wants = False
        self.tell(ev.DataLow(self.world.run.leases_ahead))

    def _boundary(self) -> None:
        for _, install in sorted(self.installs.items()):
            self.world.payload.install(self.name, install)
        cuts, installs = self._cuts_due(), tuple(sorted(self.installs))
        for fragment in cuts:
            self.world.payload.cut(self.name, fragment, self.cuts.pop(fragment).id.number)
        self.installs = {}
        self.inner.boundary()
        self.tell(ev.Boundary(self.step, self.tokens, self.pace_s, cuts, installs))
        if self.hand.wants:
            self._ask_for_data()

    def _cuts_due(self) -> tuple[int, ...]:
        """The fragments that are cut at this boundary: all that were ordered."""
        return tuple(sorted(self.cuts))

    # ------------------------------------------------------------ the network

    def _connect(self, party: str) -> None:
        if self.link_up and self.world.is_up(party) and party not in self.connections:
            self._later(self.island.link.delay_s, lambda: self._connected(party))
        else:
            self._later(RECONNECT_S * (1 + self.world.dice.random()), lambda: self._again(party))

    def _again(self, party: str) -> None:
        if party not in self.connections and self.core.state.phase != OVER:
            self._connect(party)

    def _connected(self, party: str) -> None:
        if party in self.connections or self.core.state.phase == OVER:
            return
        if not (self.link_up and self.world.is_up(party)):
            self._connect(party)
            return
        self.connections[party] = self.world.new_connection()
        if party != COORDINATOR:
            connected = ev.Connected(self.name, self.core.state.incarnation)
            self.world.tell_party(party, connected)
        self.tell(ev.LinkUp(party))

    def drop_connections(self, why: str, told: bool, only: str = "") -> None:
        """The connections break; the far side notices, and this one when `told`."""
        for party in [p for p in self.connections if p == only or not only]:
            del self.connections[party]
            gone = ev.Disconnected(self.name, self.core.state.incarnation, why)
            self.world.tell_party(party, gone)
            if told and self.alive:
                self.tell(ev.LinkDown(party, why))

    def _upload(self, cut: Cut) -> None:
        body = self.world.payload.upload(cut)
        defect, self.corrupt_next = self.corrupt_next, ""
        took_s = self.wire.send_up_s(self.sizes.contribution_bytes(cut.fragment))
        party, connection = self._bulk_way(cut.fragment)

        def done() -> None:
            if self._bulk_broken(party, connection):
                self.tell(ev.UploadFailed(cut.id, "the connection broke", final=False))
                return
            self.world.contribution(party, cut, body, defect)
            self.tell(ev.Uploaded(cut.id))

        self._later(took_s, done)

    def _fetch(self, order: fx.Fetch) -> None:
        party, connection = self._bulk_way(order.fragment)
        version = self.world.published_version(order.fragment)
        base = -1 if order.full else self._base(order.fragment)
        size = self.sizes.news_bytes(order.fragment, base, version) if version >= 0 else 0
        took_s = self.wire.send_down_s(size)
        if version >= 0:
            self.world.payload.fetch(self.name, order.fragment, version)

        def done() -> None:
            if self._bulk_broken(party, connection) or version < 0:
                why = "the connection broke"
                self.tell(ev.FetchFailed(order.fragment, order.version, why, full=False))
                return
            self.tell(ev.Fetched(order.fragment, version))

        self._later(took_s, done)

    def _base(self, fragment: int) -> int:
        """The newest version of a fragment that this process holds."""
        holding = self.core.state.holdings[fragment]
        return max(holding.base, holding.fetched)

    def _bulk_way(self, fragment: int) -> tuple[str, int]:
        party = self.world.owner(fragment)
        return party, self.connections.get(party, -1)

    def _bulk_broken(self, party: str, connection: int) -> bool:
        return self.connections.get(party, -2) != connection or not self.world.is_up(party)

    def _upload_initial(self) -> None:
        def done() -> None:
            for fragment in range(self.world.settings.P):
                digest = self.world.payload.initial(self.name, fragment)
                self.world.tell_party(
                    self.world.owner(fragment), ev.InitialStored(fragment, digest)
                )
            self.tell(ev.InitialUploaded())

        took_s = self.island.link.delay_s
        for size in self.sizes.full:
            took_s = self.wire.send_up_s(size)
        self._later(took_s, done)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do it after a while, if this process still lives then."""
        life = self.life

        def run() -> None:
            if self.alive and self.life == life:
                if self.frozen:
                    self.waiting.append(run)
                else:
                    action()

        self.world.clock.after(delay_s, run)
