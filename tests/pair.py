"""Cores for tests: one core fed by hand, or all of them joined over a made-up network.

`HandShard` and `HandLearner` hold one core each and play its driver and everybody else; whatever
happens, the invariants are checked after it. `sail` builds a whole run in virtual time over links
that delay, lose, repeat and reorder, and `Run` reads its figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator import RunSettings
from atoll.core.ids import COORDINATOR, Cut, CutId, Mark
from atoll.core.invariants import check_learner, check_shard, require
from atoll.core.learner import LearnerCore
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.core.shard_state import Fragment
from atoll.simulator.learner_node import LearnerNode
from atoll.simulator.network import Island, Link
from atoll.simulator.world import Conditions, World

T = TypeVar("T")
STEP_TOKENS = 100
LAYOUT = "layout-1"
NEVER = float("inf")


# ---------------------------------------------------------------- reading effects


def sends(effects: Iterable[fx.Effect], kind: type[T]) -> list[tuple[tuple[str, ...], T]]:
    """Messages of a kind with whom they go to."""
    return [
        (e.to, e.message) for e in effects if isinstance(e, fx.Send) and type(e.message) is kind
    ]


def said(effects: Iterable[fx.Effect], kind: type[T]) -> list[T]:
    """Messages of a kind."""
    return [message for _, message in sends(effects, kind)]


def of(effects: Iterable[fx.Effect], kind: type[T]) -> list[T]:
    """Effects of a kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def codes(effects: Iterable[fx.Effect], kind: type[Any]) -> list[str]:
    """Reason codes of the effects of a kind."""
    return [effect.reason.code for effect in effects if isinstance(effect, kind)]


def refused(core: Any, event: object) -> str:
    """The code with which a core refuses an event, after proof that nothing was changed by it."""
    before = core.snapshot()
    effects = core.handle(before.now_s, event)
    assert [type(effect) for effect in effects] == [fx.Refuse], effects
    assert core.snapshot() == before, "a refused event changed something"
    reason = effects[0].reason
    assert reason.code and reason.sentence, "a refusal names its reason"
    return str(reason.code)


# ---------------------------------------------------------------- a shard fed by hand


class HandShard:
    """The only shard of a run. Learners do what the test says; one step is `STEP_TOKENS`.

    Nobody becomes busy or away by the clock alone, unless the settings say so.
    """

    def __init__(self, *names: str, pace_s: float = 1.0, **settings: Any):
        values: dict[str, Any] = {
            "M": max(1, len(names)),
            "P": 1,
            "H": 4,
            "tau": 2,
            "receipt": "keep",
        }
        values |= {"busy_after_steps": 1e6, "silence_s": 1e6}
        self.settings = ProtocolSettings(**(values | settings))
        self.core = ShardCore(self.settings, 0, 1)
        self.now_s = 0.0
        self.out: list[fx.Effect] = []
        self.pace_s = pace_s
        self.life: dict[str, int] = {}
        self.step: dict[str, int] = {}
        self.apart: dict[str, bool] = {}
        self.num_cuts = 0
        for name in names:
            self.join(name)
        for fragment in range(self.settings.P):
            self(ev.InitialStored(fragment, "0"))

    def __call__(self, event: object) -> list[fx.Effect]:
        """One event, now."""
        self.out = self.core.handle(self.now_s, event)
        require("shard-0", check_shard(self.core.state))
        return self.out

    def wait(self, seconds: float) -> list[fx.Effect]:
        """Let time pass, with a tick at every deadline on the way."""
        end_s, effects = self.now_s + seconds, []
        while (at_s := self.core.next_deadline_s()) <= end_s:
            self.now_s = max(self.now_s, at_s)
            effects += self(ev.Tick())
            assert self.core.next_deadline_s() > self.now_s, "a driver would spin"
        self.now_s = end_s
        self.out = effects
        return effects

    def join(self, name: str, life: int = 0) -> None:
        """A life of a learner is admitted and connects; it has done no step."""
        self.life[name] = life or max(self.life.values(), default=0) + 1
        self.step[name] = 0
        self.apart[name] = False
        self(msg.Admitted(name, self.life[name]))
        self(ev.Connected(name, self.life[name]))

    def lose(self, name: str) -> list[fx.Effect]:
        """The learner's connection breaks."""
        self.apart[name] = True
        return self(ev.Disconnected(name, self.life[name], "cut"))

    def back(self, name: str) -> list[fx.Effect]:
        """The learner's connection stands again."""
        self.apart[name] = False
        return self(ev.Connected(name, self.life[name]))

    def steps(self, num: int, *names: str) -> list[fx.Effect]:
        """Everybody connected (or these) does so many steps and reports each."""
        effects: list[fx.Effect] = []
        connected = tuple(name for name, apart in self.apart.items() if not apart)
        for _ in range(num):
            self.now_s += self.pace_s
            for name in names or connected:
                effects += self.report(name)
        self.out = effects
        return effects

    def report(self, name: str, num_steps: int = 1) -> list[fx.Effect]:
        """A learner has done steps."""
        self.step[name] += num_steps
        tokens = self.step[name] * STEP_TOKENS
        return self(msg.Report(name, self.life[name], self.step[name], tokens, self.pace_s))

    def beat(self, name: str, **changes: Any) -> list[fx.Effect]:
        """A sign of life that holds the newest version of everything."""
        held = tuple(fragment.version for fragment in self.core.state.fragments)
        beat = msg.Beat(name, self.life[name], 0.0, 0.0, held, ())
        return self(replace(beat, **changes))

    def fragment(self, number: int = 0) -> Fragment:
        """What the shard knows of a fragment."""
        return self.core.state.fragments[number]

    def cut(self, name: str, number: int = 0, **changes: Any) -> Cut:
        """All unmerged work of a learner, for the present round, on the newest version."""
        fragment, step = self.fragment(number), self.step[name]
        self.num_cuts += 1
        id = CutId(name, self.life[name], self.num_cuts)
        first = self.core.state.seats[name].through[number] if name in self.core.state.seats else 0
        end, base, call = step * STEP_TOKENS, fragment.version, fragment.round_number
        num_steps = step - first // STEP_TOKENS
        return replace(Cut(id, number, base, first, end, num_steps, call, step), **changes)

    def arrive(self, name: str, number: int = 0, **changes: Any) -> Cut:
        """A learner hands in all its work; the cut."""
        cut = self.cut(name, number, **changes)
        self(ev.Arrived(cut))
        return cut

    def merge(self, number: int = 0) -> list[fx.Effect]:
        """The merge that was asked for becomes durable."""
        order = self.fragment(number).merge
        assert order is not None, "no merge was asked for"
        return self(ev.Merged(number, order.version, str(order.version)))

    def merge_order(self) -> fx.Merge:
        """The merge that the last events asked for."""
        (order,) = of(self.out, fx.Merge)
        return order

    def merged_names(self) -> list[str]:
        """Whose work the last events asked to merge."""
        return [part.cut.id.learner for part in self.merge_order().parts]

    def close(self, number: int = 0) -> list[fx.Effect]:
        """Let time pass until the round of a fragment is over, and not longer."""
        effects = self.out
        while self.fragment(number).round is not None:
            effects = effects + self.wait(self.core.next_deadline_s() - self.now_s)
        self.out = effects
        return effects

    def round(self, *names: str, number: int = 0) -> fx.Merge:
        """H steps of everybody, then a round in which these hand in, closed by its grace."""
        self.steps(self.settings.H)
        for name in names:
            self.arrive(name, number)
        self.close(number)
        order = self.fragment(number).merge
        assert order is not None, "the round was given up"
        self.merge(number)
        return order


# ---------------------------------------------------------------- a learner fed by hand


class HandLearner:
    """A learner's core whose training loop and syncer the test plays."""

    def __init__(self, name: str = "a", joined: bool = True, **settings: Any):
        values: dict[str, Any] = {"M": 2, "P": 1, "H": 4, "tau": 2, "receipt": "keep"}
        self.settings = ProtocolSettings(**(values | settings))
        self.core = LearnerCore(self.settings, name, LAYOUT)
        self.name = name
        self.now_s = 0.0
        self.at_step = 0
        self.out: list[fx.Effect] = []
        self.cuts: dict[int, fx.CutOrder] = {}
        self.installs: dict[int, fx.InstallOrder] = {}
        self.round_number = 0
        if joined:
            self.join()

    def __call__(self, event: object) -> list[fx.Effect]:
        """One event, now; orders are kept for the next boundary."""
        self.out = self.core.handle(self.now_s, event)
        require(self.name, check_learner(self.core.state))
        for effect in self.out:
            if isinstance(effect, fx.CutOrder):
                self.cuts[effect.fragment] = effect
            elif isinstance(effect, fx.InstallOrder):
                self.installs[effect.fragment] = effect
            elif isinstance(effect, fx.Withdraw):
                self.cuts.pop(effect.fragment, None)
                self.installs.pop(effect.fragment, None)
        return self.out

    def join(self, life: int = 1) -> None:
        """Hello, welcome, and version 0 of everything installed."""
        self(ev.JoinAsked("process-1"))
        self(ev.LinkUp(COORDINATOR))
        self(msg.Welcome(1, self.name, life, False, 1, True, "process-1"))
        self(ev.LinkUp("shard-0"))
        for fragment in range(self.settings.P):
            self.publish(fragment, 0)
        self.boundary(0)
        assert self.core.state.phase == "training"

    def boundary(self, num_steps: int = 1) -> list[fx.Effect]:
        """Steps, then a boundary at which every order is carried out."""
        self.at_step += num_steps
        self.now_s += num_steps
        cuts, installs = tuple(sorted(self.cuts)), tuple(sorted(self.installs))
        self.cuts, self.installs = {}, {}
        tokens = self.at_step * STEP_TOKENS
        return self(ev.Boundary(self.at_step, tokens, 1.0, cuts, installs))

    def steps(self, num: int) -> list[fx.Effect]:
        """So many steps, each with its boundary."""
        effects: list[fx.Effect] = []
        for _ in range(num):
            effects += self.boundary()
        return effects

    def call(self, fragment: int = 0) -> list[fx.Effect]:
        """The shard calls a fragment."""
        self.round_number += 1
        return self(msg.Call(1, fragment, self.round_number, 2))

    def cut(self, fragment: int = 0) -> Cut:
        """Called, cut at the next boundary, uploaded; the cut."""
        self.call(fragment)
        (announce,) = said(self.boundary(), msg.Announce)
        self(ev.Uploaded(announce.cut.id))
        return announce.cut

    def publish(self, fragment: int, version: int, merged: Cut | None = None) -> None:
        """A version is announced, with a cut of this learner in it or not, and fetched."""
        self.announce(fragment, version, merged)
        for fetch in of(self.out, fx.Fetch):
            self(ev.Fetched(fetch.fragment, fetch.version))

    def announce(self, fragment: int, version: int, merged: Cut | None = None) -> None:
        """A version is announced."""
        marks = ()
        if merged is not None:
            id = merged.id
            marks = (Mark(id.learner, id.incarnation, id.number, version),)
        self(msg.Published(1, fragment, version, str(version), marks))

    def drop(self, cut: Cut, code: str = "stale") -> list[fx.Effect]:
        """The shard says that a cut will not be merged."""
        return self(msg.Dropped(1, cut.id, cut.fragment, code, f"the syncer says {code}"))

    def fates(self, fragment: int = 0) -> dict[str, int]:
        """Tokens of this life by fate; together all that were trained in it."""
        return fates_of(self.core, [fragment])


def fates_of(core: LearnerCore, fragments: Iterable[int]) -> dict[str, int]:
    """Tokens by fate over fragments: "merged", "in_flight", "open", and drops by their codes."""
    found: dict[str, int] = {}
    for number in fragments:
        ledger = core.state.holdings[number].ledger
        position = core.state.tokens
        each = {"merged": ledger.merged, "in_flight": ledger.in_flight}
        each |= {"open": ledger.open(position)} | ledger.dropped
        assert sum(each.values()) == position, "a gap or an overlap in the ledger"
        for fate, tokens in each.items():
            if tokens:
                found[fate] = found.get(fate, 0) + tokens
    return found


# ---------------------------------------------------------------- a whole run


@dataclass(slots=True)
class Round:
    """A merge that was asked for, or a round that was given up (`version` 0)."""

    at_s: float
    fragment: int
    version: int
    names: tuple[str, ...]
    steps: dict[str, int]
    thin: bool
    code: str


@dataclass(slots=True)
class CallMade:
    """A call of a fragment, as it was sent first."""

    at_s: float
    fragment: int
    names: tuple[str, ...]
    steps: dict[str, int]


@dataclass
class Run:
    """A run in virtual time and what could be seen of it."""

    world: World
    rounds: list[Round] = field(default_factory=list)
    calls: list[CallMade] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[float, str, str]] = field(default_factory=list)
    events: list[tuple[str, float, object]] = field(default_factory=list)
    keep_events: bool = False

    def __post_init__(self) -> None:
        self.world.recorders.append(self._record)

    def __getitem__(self, name: str) -> LearnerNode:
        return self.world.learners[name]

    @property
    def shard(self) -> ShardCore:
        """The core of the first shard."""
        return self.world.shards[0].core

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return self.world.clock.now_s

    def go(self, seconds: float) -> Run:
        """Let time pass."""
        self.world.run_for(seconds)
        return self

    def until(self, done: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Let time pass until something is so; it must be within the limit."""
        assert self.world.run_until(done, limit_s), f"not within {limit_s} s"

    def steps(self, num: int, name: str = "") -> None:
        """Let a learner (the first one) do so many steps more."""
        node = self[name or next(iter(self.world.learners))]
        target = node.step + num
        self.until(lambda: node.step >= target, num * node.island.step_s * 3 + 60)

    def at_rest(self) -> None:
        """Let time pass until every learner is live and trains."""
        nodes = self.world.learners.values()
        self.until(lambda: all(node.core.state.phase == "training" for node in nodes))

    def merges_since(self, at_s: float) -> list[Round]:
        """Rounds that were closed with a merge."""
        return [each for each in self.rounds if each.at_s >= at_s and each.version > 0]

    def participation(self, since_s: float = 0.0) -> float:
        """Learners merged / learners expected, over the rounds since."""
        merges = self.merges_since(since_s)
        expected = len(self.world.learners) * len(merges)
        return sum(len(each.names) for each in merges) / max(1, expected)

    def share_of_rounds(self, name: str, since_s: float = 0.0) -> float:
        """In how many of the rounds since a learner's work was merged."""
        merges = self.merges_since(since_s)
        return sum(name in each.names for each in merges) / max(1, len(merges))

    def effective_h(self, name: str, since_s: float = 0.0) -> float:
        """Steps of a learner between two calls of the same fragment, on average."""
        gaps = self.call_gaps(name, since_s)
        return sum(gaps) / max(1, len(gaps))

    def call_gaps(self, name: str, since_s: float = 0.0) -> list[int]:
        """Steps of a learner, as reported, between two calls of the same fragment."""
        last: dict[int, int] = {}
        gaps = []
        for call in self.calls:
            if call.at_s >= since_s and name in call.steps:
                if call.fragment in last:
                    gaps.append(call.steps[name] - last[call.fragment])
                last[call.fragment] = call.steps[name]
        return gaps

    def fates(self, name: str) -> dict[str, float]:
        """Shares of the present life's tokens by fate, over all fragments."""
        core = self[name].core
        total = core.state.tokens * self.world.settings.P
        found = fates_of(core, range(self.world.settings.P))
        return {fate: tokens / max(1, total) for fate, tokens in found.items()}

    def refused(self) -> dict[str, int]:
        """Refused events of all parties by code."""
        return dict(self.world.counts.refused)

    def _record(self, party: str, now_s: float, event: object, effects: list[fx.Effect]) -> None:
        if self.keep_events:
            self.events.append((party, now_s, event))
        for effect in effects:
            if isinstance(effect, fx.Merge):
                self._merge(now_s, effect)
            elif isinstance(effect, fx.Note):
                self.notes.append((now_s, effect.reason.code, effect.reason.sentence))
            elif isinstance(effect, fx.Send) and isinstance(effect.message, msg.Dropped):
                self.dropped.append((effect.message.cut.learner, effect.message.code))
            elif isinstance(effect, fx.Send) and isinstance(effect.message, msg.Call):
                self._call(party, now_s, effect)

    def _merge(self, now_s: float, merge: fx.Merge) -> None:
        names = tuple(part.cut.id.learner for part in merge.parts)
        steps = {part.cut.id.learner: part.cut.steps for part in merge.parts}
        self.rounds.append(
            Round(now_s, merge.fragment, merge.version, names, steps, merge.thin, merge.reason.code)
        )

    def _call(self, party: str, now_s: float, effect: fx.Send) -> None:
        if effect.reason.code != "due":
            return
        shard = self.world.party(party)
        assert isinstance(shard.core, ShardCore)
        members = shard.core.state.roster.members
        steps = {name: member.step for name, member in members.items()}
        assert isinstance(effect.message, msg.Call)
        self.calls.append(CallMade(now_s, effect.message.fragment, effect.to, steps))


FAST = Link(delay_s=0.01, bulk_s=0.1)
ROUGH = Link(0.05, jitter_s=0.05, loss=0.05, duplicate=0.05, reorder=0.1, bulk_s=0.2)


def sail(
    paces_s: Iterable[float] = (1.0, 1.0),
    link: Link = FAST,
    run: dict[str, Any] | None = None,
    conditions: Conditions | None = None,
    **settings: Any,
) -> Run:
    """A run of learners "a", "b", ... with these paces; settings by keyword."""
    paces = list(paces_s)
    values: dict[str, Any] = {"M": len(paces), "P": 3, "H": 12, "tau": 2, "receipt": "keep"}
    names = "abcdefghijklmnopqrstuvwxyz"
    islands = [Island(name, pace, 0.0, link) for name, pace in zip(names, paces, strict=False)]
    run_values: dict[str, Any] = {"run": "run-1", "layout": LAYOUT, "budget_tokens": 10**12}
    return Run(
        World(
            ProtocolSettings(**(values | settings)),
            RunSettings(**(run_values | (run or {}))),
            islands,
            conditions or Conditions(merge_s=0.02),
        )
    )


def dice(seed: int) -> random.Random:
    """The dice of a test: the same in every run."""
    return random.Random(seed)
