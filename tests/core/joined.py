"""Joined cores: one coordinator, shards and learners, and all that is under way between them.

`Joined` is the network, the disks and the training loops. It holds every message, transfer, merge
and record, and whoever drives it chooses which of them comes, is lost, or comes twice. After every
event the invariants of the cores are checked, and from outside: counted once, durable before
visible, versions that rise by one, no fate that the syncer contradicts, every byte kept that is
asked for, copies that nobody forgot to forget, limits of a boundary, deadlines that do not spin,
and copies restored from snapshots that go on as the originals do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import CoordinatorCore, RunSettings
from atoll.core.coordinator_state import CoordinatorState
from atoll.core.ids import COORDINATOR, Cut, CutId, shard_of, shard_party
from atoll.core.invariants import check_learner, check_shard, require
from atoll.core.learner import LearnerCore
from atoll.core.learner_state import JOINING, LEAVING, OVER, TRAINING
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.simulator.checkers import Watch

Core = ShardCore | CoordinatorCore | LearnerCore
NEVER = math.inf
UNDONE = ("died", "left", "replaced")
"""Why a learner may let go of a cut whose fate it never heard."""


@dataclass
class Party:
    """The coordinator or a shard: its core, what is durable, and what its driver holds."""

    name: str
    core: Any
    kept: Any
    epoch: int = 1
    alive: bool = True
    log: list[ev.MergeRecovered] = field(default_factory=list)
    merges: list[fx.Merge] = field(default_factory=list)
    persists: list[int] = field(default_factory=list)
    bodies: dict[tuple[CutId, int], Cut] = field(default_factory=dict)
    arriving: Cut | None = None


@dataclass
class Process:
    """A training process: its core, its loop, and the copies that its ferry keeps."""

    key: str
    name: str
    core: LearnerCore
    alive: bool = True
    step: int = 0
    tokens: int = 0
    busy: bool = False
    cuts: dict[int, fx.CutOrder] = field(default_factory=dict)
    installs: dict[int, fx.InstallOrder] = field(default_factory=dict)
    copies: dict[int, set[int]] = field(default_factory=dict)
    fetched: dict[int, set[int]] = field(default_factory=dict)
    leases: list[msg.Granted] = field(default_factory=list)
    position: int = 0


@dataclass
class Flight:
    """A message under way over one connection (0: inside the syncer, which has none)."""

    sender: str
    to: str
    connection: int
    message: object


@dataclass
class Transfer:
    """Bytes under way: a cut going up, or a version coming down."""

    process: str
    connection: int
    order: fx.Upload | fx.Fetch


class Joined:
    """All cores of a run, and everything between them. Whoever holds it decides what happens."""

    def __init__(self, protocol: ProtocolSettings, run: RunSettings):
        self.protocol, self.run = protocol, run
        self.now_s = 0.0
        self.watch = Watch()
        self.versions: dict[int, int] = {}
        self.fates: dict[tuple[CutId, int], str] = {}
        self.processes: dict[str, Process] = {}
        self.connections: dict[tuple[str, str], int] = {}
        self.num_connections = 0
        self.num_processes = 0
        self.flights: list[Flight] = []
        self.dials: list[tuple[str, str]] = []
        self.transfers: list[Transfer] = []
        self.initials: list[str] = []
        self.twins: dict[str, Core] = {}
        core = CoordinatorCore(protocol, run)
        self.parties = {COORDINATOR: Party(COORDINATOR, core, core.snapshot())}
        for index in range(run.num_shards):
            shard = ShardCore(protocol, index, run.num_shards)
            self.parties[shard_party(index)] = Party(shard_party(index), shard, shard.snapshot())
        for index in range(run.num_shards):
            self.tell(COORDINATOR, ev.Connected(shard_party(index), 0))

    # ------------------------------------------------------------ driving cores

    def core(self, key: str) -> Core:
        return self.parties[key].core if key in self.parties else self.processes[key].core

    def tell(self, key: str, event: object) -> None:
        """One event into one core, checked from all sides, and its effects carried out."""
        self._tell(key, event)
        if self.core(key).next_deadline_s() <= self.now_s:
            self._tell(key, ev.Tick())
            assert self.core(key).next_deadline_s() > self.now_s, f"{key} would spin"

    def _tell(self, key: str, event: object) -> None:
        core = self.core(key)
        effects = core.handle(self.now_s, event)
        due_s = core.next_deadline_s()
        assert due_s == due_s, "a deadline is a number"
        twin = self.twins.get(key)
        if twin is not None:
            assert repr(twin.handle(self.now_s, event)) == repr(effects), f"the twin of {key}"
            assert twin.next_deadline_s() == due_s, f"the deadline of the twin of {key}"
        self._check(key, core)
        for effect in effects:
            if key in self.parties:
                self._carry_out_lagoon(self.parties[key], effect)
            else:
                self._carry_out_island(self.processes[key], effect)
        if key in self.processes:
            self._check_books(self.processes[key])
        elif isinstance(core, ShardCore):
            self._check_bodies(self.parties[key], core)

    def _check(self, key: str, core: Core) -> None:
        if isinstance(core, ShardCore):
            require(key, check_shard(core.state))
        elif isinstance(core, LearnerCore):
            require(key, check_learner(core.state))
        else:
            require(key, check_coordinator(core.state))

    def _check_books(self, process: Process) -> None:
        """The driver's orders and copies are those that the core believes in."""
        state = process.core.state
        if state.phase == OVER:
            assert not any(process.copies.values()), "copies are kept of a life that is over"
            return
        assert sorted(process.cuts) == [h.number for h in state.holdings if h.cut]
        assert sorted(process.installs) == [h.number for h in state.holdings if h.install]
        for holding in state.holdings:
            outstanding = {cut.id.number for cut in holding.ledger.outstanding}
            assert process.copies.get(holding.number, set()) == outstanding

    def _check_bodies(self, party: Party, core: ShardCore) -> None:
        """Bytes are kept only of cuts that may still be merged."""
        wanted: set[tuple[CutId, int]] = set()
        for fragment in core.state.fragments:
            cuts = [*fragment.fallback.values(), *(fragment.merge.parts if fragment.merge else ())]
            cuts += fragment.round.arrived.values() if fragment.round else []
            wanted |= {_key(getattr(each, "cut", each)) for each in cuts}
        assert set(party.bodies) <= wanted, f"nobody discards {sorted(set(party.bodies) - wanted)}"

    def copy(self, key: str) -> None:
        """From now on a copy out of a snapshot is told the same, and must answer the same."""
        core = self.core(key)
        state = core.snapshot()
        if isinstance(core, ShardCore):
            twin: Core = ShardCore.restore(self.protocol, core.index, self.run.num_shards, state)
        elif isinstance(core, CoordinatorCore):
            twin = CoordinatorCore.restore(self.protocol, self.run, state)
        else:
            twin = LearnerCore.restore(self.protocol, self.run.layout, state)
        assert twin.snapshot() == state
        self.twins[key] = twin

    def _carry_out_lagoon(self, party: Party, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                for to in effect.to:
                    self._send_down(party, to, effect.message)
            case fx.Merge():
                for part in effect.parts:
                    assert _key(part.cut) in party.bodies, f"no bytes of {part.cut.id} to merge"
                party.merges.append(effect)
            case fx.Discard():
                party.bodies.pop((effect.cut, effect.fragment), None)
            case fx.Persist():
                party.kept = party.core.snapshot()
                party.persists.append(effect.number)
            case fx.Close():
                self._close(party.name, effect)
            case fx.Refuse() if effect.reason.code == "foreign" and party.arriving is not None:
                party.bodies.pop(_key(party.arriving))
            case _:
                assert isinstance(effect, fx.Refuse | fx.Note), effect

    def _send_down(self, party: Party, to: str, message: object) -> None:
        if to in self.parties:
            self.flights.append(Flight(party.name, to, 0, message))
            return
        self.watch.seen(message)
        for process in self._addressees(party.name, to, message):
            connection = self.connections[process.key, party.name]
            self.flights.append(Flight(party.name, process.key, connection, message))

    def _addressees(self, party: str, name: str, message: object) -> list[Process]:
        """Connections a driver would choose: by process, by an older life, or the present one."""
        there = [
            each
            for each in self.processes.values()
            if each.name == name and (each.key, party) in self.connections
        ]
        if isinstance(message, msg.Welcome | msg.Rejected):
            return [each for each in there if each.key == message.process]
        if isinstance(message, msg.Replaced):
            return [e for e in there if 0 < e.core.state.incarnation < message.incarnation]
        return sorted(there, key=lambda each: each.core.state.incarnation)[-1:]

    def _close(self, party: str, effect: fx.Close) -> None:
        for process in list(self.processes.values()):
            mine = process.name == effect.learner
            if mine and process.core.state.incarnation == effect.incarnation:
                self.disconnect(process.key, party, told=True, heard=True)

    def _carry_out_island(self, process: Process, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                for party in effect.to:
                    connection = self.connections.get((process.key, party), 0)
                    if connection:
                        flight = Flight(process.key, party, connection, effect.message)
                        self.flights.append(flight)
            case fx.CutOrder():
                assert effect.fragment not in process.cuts
                process.cuts[effect.fragment] = effect
                assert len(process.cuts) <= 2, "at most two cuts at a boundary"
            case fx.InstallOrder():
                self._install_ordered(process, effect)
            case fx.Withdraw():
                process.cuts.pop(effect.fragment, None)
                process.installs.pop(effect.fragment, None)
            case fx.Upload():
                assert effect.cut.id.number in process.copies[effect.cut.fragment]
                connection = self._way(process, effect.cut.fragment)
                self.transfers.append(Transfer(process.key, connection, effect))
            case fx.Fetch():
                connection = self._way(process, effect.fragment)
                self.transfers.append(Transfer(process.key, connection, effect))
            case fx.Forget():
                self._forget(process, effect)
            case fx.Connect():
                if (process.key, effect.party) not in self.dials:
                    self.dials.append((process.key, effect.party))
            case fx.UploadInitial():
                self.initials.append(process.key)
            case fx.UseLease():
                process.leases.append(effect.lease)
            case fx.Over():
                for party in self.parties:
                    self.disconnect(process.key, party, told=False, heard=True)
            case _:
                assert isinstance(effect, fx.Refuse | fx.Note | fx.Joined), effect

    def _install_ordered(self, process: Process, order: fx.InstallOrder) -> None:
        state = process.core.state
        assert order.fragment not in process.installs
        assert order.version in process.fetched[order.fragment], "only what is here is installed"
        if order.accepted != -1:
            assert order.accepted in process.copies[order.fragment], "its displacement is gone"
        process.installs[order.fragment] = order
        if state.phase in (TRAINING, LEAVING):
            most = math.ceil(state.tau * self.protocol.P / self.protocol.H)
            assert len(process.installs) <= most, "too many installs at a boundary"

    def _forget(self, process: Process, effect: fx.Forget) -> None:
        key, code = (effect.cut, effect.fragment), effect.reason.code
        process.copies.get(effect.fragment, set()).discard(effect.cut.number)
        if process.core.state.phase == OVER or code in UNDONE:
            return
        if code == "merged":
            assert key in self.watch.merged_in, f"{key} was never merged"
        else:
            assert key not in self.watch.merged_in, f"{key} is merged, and forgotten as {code}"
            self.fates[key] = code

    def _way(self, process: Process, fragment: int) -> int:
        party = shard_party(shard_of(fragment, self.run.num_shards))
        return self.connections.get((process.key, party), -1)

    # ------------------------------------------------------------ what may happen: network

    def deliver(self, index: int, again: bool = False) -> None:
        """A message arrives, unless its connection broke; with `again` it will come once more."""
        flight = self.flights[index]
        if not again:
            del self.flights[index]
        if flight.connection:
            pair = (flight.sender, flight.to)
            pair = pair if flight.to in self.parties else (flight.to, flight.sender)
            if self.connections.get(pair) != flight.connection:
                return
        if flight.to in self.parties and not self.parties[flight.to].alive:
            return
        self.tell(flight.to, flight.message)
        if isinstance(flight.message, msg.Admitted | msg.Departed | msg.Finish):
            self.keep(flight.to)

    def dial(self, index: int) -> None:
        """A connection stands, or is tried again later."""
        key, party = self.dials[index]
        process = self.processes[key]
        if not process.alive or process.core.state.phase == OVER:
            del self.dials[index]
            return
        if (key, party) in self.connections or not self.parties[party].alive:
            if (key, party) in self.connections:
                del self.dials[index]
            return
        del self.dials[index]
        self.num_connections += 1
        self.connections[key, party] = self.num_connections
        if party != COORDINATOR:
            self.tell(party, ev.Connected(process.name, process.core.state.incarnation))
        self.tell(key, ev.LinkUp(party))

    def disconnect(self, key: str, party: str, told: bool, heard: bool) -> None:
        """A connection breaks; who is `told` is the learner, who `heard` of it the party."""
        if self.connections.pop((key, party), 0) == 0:
            return
        process = self.processes[key]
        gone = ev.Disconnected(process.name, process.core.state.incarnation, "broken")
        if heard and self.parties[party].alive:
            self.tell(party, gone)
        if told and process.alive:
            self.tell(key, ev.LinkDown(party, "broken"))

    def move(self, index: int, outcome: str) -> None:
        """A transfer ends: well, broken off before or after its bytes arrived, or refused."""
        transfer = self.transfers.pop(index)
        process = self.processes[transfer.process]
        if not process.alive or process.core.state.phase == OVER:
            return
        order = transfer.order
        fragment = order.cut.fragment if isinstance(order, fx.Upload) else order.fragment
        party = self.parties[shard_party(shard_of(fragment, self.run.num_shards))]
        broken = self.connections.get((process.key, party.name)) != transfer.connection
        if isinstance(order, fx.Upload):
            self._move_up(process, party, order.cut, outcome if not broken else "lost")
        else:
            self._move_down(process, party, order, outcome if not broken else "lost")

    def _move_up(self, process: Process, party: Party, cut: Cut, outcome: str) -> None:
        if outcome == "final" and _key(cut) not in party.bodies | self.watch.merged_in:
            self.tell(process.key, ev.UploadFailed(cut.id, "no such run", final=True))
            return
        if outcome != "lost":
            party.bodies.setdefault(_key(cut), cut)
            party.arriving = cut
            self.tell(party.name, ev.Arrived(cut, "non_finite" if outcome == "bad" else ""))
            party.arriving = None
        if outcome in ("lost", "unheard"):
            self.tell(process.key, ev.UploadFailed(cut.id, "broken", final=False))
        else:
            self.tell(process.key, ev.Uploaded(cut.id))

    def _move_down(self, process: Process, party: Party, order: fx.Fetch, outcome: str) -> None:
        version = party.core.state.fragments[order.fragment // self.run.num_shards].version
        if outcome in ("done", "unheard") and version >= order.version:
            process.fetched.setdefault(order.fragment, set()).add(version)
            self.tell(process.key, ev.Fetched(order.fragment, version))
        else:
            full = outcome == "bad"
            self.tell(process.key, ev.FetchFailed(order.fragment, order.version, "broken", full))

    # ------------------------------------------------------------ what may happen: the lagoon

    def merge(self, party: Party, index: int, outcome: str) -> None:
        """A merge ends: durable, failed, spoiled by a contribution, or durable but not heard of."""
        order = party.merges.pop(index)
        if outcome in ("failed", "spoiled"):
            bad = (order.parts[0].cut.id,) if outcome == "spoiled" else ()
            failed = ev.MergeFailed(order.fragment, order.version, "disk", "full", bad)
            self.tell(party.name, failed)
            return
        digest = f"{order.fragment}:{order.version}"
        for part in order.parts:
            party.bodies.pop(_key(part.cut))
            assert _key(part.cut) not in self.fates, "the learner was told another fate"
            self.watch.merged(part.cut, order.version)
        self.watch.durable(order.fragment, order.version)
        self.versions[order.fragment] = order.version
        rest = (order.round, order.marks, order.through, order.merged_tokens)
        party.log.append(ev.MergeRecovered(order.fragment, order.version, digest, *rest))
        if outcome == "unheard":
            self.kill(party.name)
            self.start(party.name)
        else:
            self.tell(party.name, ev.Merged(order.fragment, order.version, digest))

    def persist(self) -> None:
        """The oldest record under way is durable."""
        party = self.parties[COORDINATOR]
        if party.alive and party.persists:
            self.tell(COORDINATOR, ev.Persisted(party.persists.pop(0)))

    def keep(self, name: str) -> None:
        """A snapshot becomes durable, and what it holds leaves the log."""
        party = self.parties[name]
        party.kept = party.core.snapshot()
        if isinstance(party.core, ShardCore):
            held = {f.number: f.version for f in party.core.state.fragments}
            party.log = [each for each in party.log if each.version > held[each.fragment]]

    def kill(self, name: str) -> None:
        party = self.parties[name]
        if party.alive:
            party.alive = False
            self.twins.pop(name, None)
            for key, other in list(self.connections):
                if other == name:
                    self.disconnect(key, other, told=True, heard=False)
            if name != COORDINATOR and self.parties[COORDINATOR].alive:
                self.tell(COORDINATOR, ev.Disconnected(name, 0, "gone"))

    def start(self, name: str) -> None:
        """A new process takes over from what is durable."""
        party = self.parties[name]
        if party.alive:
            return
        party.alive, party.epoch = True, party.epoch + 1
        party.merges, party.persists, party.bodies = [], [], {}
        if name == COORDINATOR:
            party.core = CoordinatorCore.restore(self.protocol, self.run, party.kept)
            self.tell(name, ev.Restarted(party.epoch))
            self.keep(name)
            for each in self.parties.values():
                if each.name != COORDINATOR and each.alive:
                    self.tell(COORDINATOR, ev.Connected(each.name, 0))
            return
        index = int(name.split("-")[1])
        party.core = ShardCore.restore(self.protocol, index, self.run.num_shards, party.kept)
        for each in party.log:
            self._tell(name, each)
        self.tell(name, ev.Restarted(party.epoch))
        self.watch.recovered(party.core.state, self.versions)
        if self.parties[COORDINATOR].alive:
            self.tell(COORDINATOR, ev.Connected(name, 0))

    def initialise(self, index: int, num_fragments: int) -> None:
        """Version 0 comes, or the first fragments of it."""
        if not all(party.alive for party in self.parties.values()):
            return
        process = self.processes[self.initials.pop(index)]
        if not process.alive:
            return
        for fragment in range(min(num_fragments, self.protocol.P)):
            party = self.parties[shard_party(shard_of(fragment, self.run.num_shards))]
            if fragment not in self.versions:
                self.versions[fragment] = 0
                self.watch.durable(fragment, 0)
            self.tell(party.name, ev.InitialStored(fragment, f"{fragment}:0"))
            self.keep(party.name)
        if num_fragments >= self.protocol.P:
            self.tell(process.key, ev.InitialUploaded())
        else:
            self.initials.append(process.key)

    # ------------------------------------------------------------ what may happen: islands

    def join(self, name: str) -> None:
        """A fresh process, whatever others there are of this name."""
        self.num_processes += 1
        key = f"{name}#{self.num_processes}"
        core = LearnerCore(self.protocol, name, self.run.layout)
        self.processes[key] = Process(key, name, core)
        self.tell(key, ev.JoinAsked(key))
        if self.run.dataset_items:
            self.tell(key, ev.DataLow(2))

    def crash(self, key: str, heard: bool) -> None:
        """A process is gone; its connections are closed, or stay half open."""
        process = self.processes[key]
        process.alive = False
        self.twins.pop(key, None)
        for party in self.parties:
            self.disconnect(key, party, told=False, heard=heard)
        del self.processes[key]
        self.dials = [each for each in self.dials if each[0] != key]
        self.transfers = [each for each in self.transfers if each.process != key]
        self.initials = [each for each in self.initials if each != key]
        self.flights = [each for each in self.flights if key not in (each.to, each.sender)]

    def boundary(self, key: str, tokens: int, which: Callable[[int], bool]) -> None:
        """The loop is between two steps, and carries out the orders that `which` lets it."""
        process = self.processes[key]
        phase = process.core.state.phase
        if phase not in (JOINING, TRAINING, LEAVING):
            return
        if phase == TRAINING and not process.busy:
            process.step += 1
            process.tokens += tokens
            self._use_data(process)
        installs = [f for f in sorted(process.installs) if which(f)]
        deferred = [f for f in process.installs if f not in installs]
        cuts = [f for f in sorted(process.cuts) if which(f + 100) and f not in deferred]
        for fragment in installs:
            order = process.installs.pop(fragment)
            assert process.core.state.holdings[fragment].base < order.version
        for fragment in cuts:
            order_cut = process.cuts.pop(fragment)
            process.copies.setdefault(fragment, set()).add(order_cut.id.number)
        pace_s = 1.0 if process.step else 0.0
        done = ev.Boundary(process.step, process.tokens, pace_s, tuple(cuts), tuple(installs))
        self.tell(key, done)

    def _use_data(self, process: Process) -> None:
        if not process.leases:
            return
        lease = process.leases[0]
        process.position = min(lease.stop, max(process.position, lease.first) + 3)
        finished = process.position == lease.stop
        self.tell(process.key, ev.DataTaken(lease.lease, str(process.position), finished))
        if finished:
            process.leases.pop(0)
            process.position = process.leases[0].first if process.leases else 0

    def cores(self) -> list[str]:
        parties = [name for name, party in self.parties.items() if party.alive]
        return parties + [key for key, process in self.processes.items() if process.alive]

    def pass_time(self, seconds: float) -> None:
        """Time goes by; everybody's timer fires when it is due."""
        end_s = self.now_s + seconds
        for _ in range(10_000):
            due = [(self.core(key).next_deadline_s(), key) for key in self.cores()]
            at_s, key = min(due, default=(NEVER, ""))
            if at_s > end_s:
                break
            self.now_s = max(self.now_s, at_s)
            self._tell(key, ev.Tick())
            assert self.core(key).next_deadline_s() > self.now_s, f"{key} would spin"
        self.now_s = end_s

    def settle(self) -> None:
        """Everything under way arrives, in order, until nothing is under way."""
        for _ in range(200):
            if self.flights:
                self.deliver(0)
            elif self.parties[COORDINATOR].persists and self.parties[COORDINATOR].alive:
                self.persist()
            elif self.initials and all(party.alive for party in self.parties.values()):
                self.initialise(0, self.protocol.P)
            elif self.transfers:
                self.move(0, "done")
            else:
                merging = [p for p in self.parties.values() if p.alive and p.merges]
                if merging:
                    self.merge(merging[0], 0, "done")
                    continue
                dials = [n for n, (_, p) in enumerate(self.dials) if self.parties[p].alive]
                if not dials:
                    return
                self.dial(dials[0])

    def honest_step(self, tokens: int = 100) -> None:
        """Everybody steps, everything arrives, a second passes."""
        for key in list(self.processes):
            if key in self.processes:
                self.boundary(key, tokens, lambda _: True)
        self.settle()
        self.pass_time(1.0)
        self.settle()


def _key(cut: Cut) -> tuple[CutId, int]:
    return cut.id, cut.fragment


def check_coordinator(state: CoordinatorState) -> list[str]:
    """Members have lives, lives have their own numbers, data is in one pair of hands at a time."""
    wrong: list[str] = []
    for name, member in state.roster.members.items():
        life = state.lives.get(member.incarnation)
        if life is None or life.learner != name:
            wrong.append(f"{name} is a member without a life")
    for incarnation, life in state.lives.items():
        if life.floor != min(life.through) or incarnation > state.incarnation:
            wrong.append(f"life {incarnation} of {life.learner} miscounts")
        if max(life.through) > life.tokens:
            wrong.append(f"{life.learner} has merged more than it has trained")
    if max(state.merged) > state.trained:
        wrong.append(f"{max(state.merged)} tokens are merged, {state.trained} trained")
    pieces = [(e.stream, e.turn, e.stop) for e in state.leases.held.values()]
    pieces += [(-1, turn, stop) for turn, _, stop in state.leases.returned]
    if len(pieces) != len(set(pieces)):
        wrong.append("a piece of data is in two hands")
    lost = [e.number for e in state.leases.held.values() if e.incarnation not in state.lives]
    return wrong + [f"lease {number} is in the hands of a life that is over" for number in lost]
