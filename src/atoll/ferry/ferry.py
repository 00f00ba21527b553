"""The ferry: a thread beside training that drives the learner's core.

The recipe of every driver: take what came, hand it to the core as an event, carry out each effect,
keep one timer at the core's next deadline. Nothing here blocks save the inbox, until that
deadline: sockets, encoding and decoding have threads of their own. Must never touch the model.
Should anything here fail unexpectedly, the training thread hears of it at its next step.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.ids import COORDINATOR, CutId
from atoll.core.learner import LearnerCore
from atoll.core.messages import Welcome
from atoll.core.reasons import Reason
from atoll.ferry.control import ControlLink, Crashed, FrameCame, LinkLost, LinkOpened
from atoll.ferry.door import Door
from atoll.ferry.errands import Checkpoints, CheckpointWritten, Errands
from atoll.ferry.inner import InnerState
from atoll.ferry.inner_file import InnerFile, Owner
from atoll.ferry.island import Island
from atoll.ferry.mailbox import (
    Crossed,
    CutJob,
    Figures,
    Inherited,
    InstallJob,
    Job,
    Mailbox,
)
from atoll.ferry.receipt import Received
from atoll.ferry.solitude import Solitude
from atoll.ferry.taping import FerryTape
from atoll.ferry.terms import RunTerms
from atoll.ferry.transfers import (
    FetchedInner,
    FetchedVersion,
    InitialFailed,
    KeptCut,
    Transfers,
)
from atoll.merge.chain import Published
from atoll.wire.errors import WireError
from atoll.wire.frames import FROM_SYNCER, decode, encode

LONGEST_NAP_S = 5.0
CLOSE_S = 2.0
ALONE = "alone"
"""Code of the end of a learner that did not reach the syncer for too long."""
QUIET = frozenset({"finishing", "joined", "left", "ended", "merged", "steps"})
"""Notes that are no cause for concern."""

log = logging.getLogger("atoll.learner")


@dataclass(frozen=True, slots=True)
class Passage:
    """Who travels where: a learner's name, this process's own, and the run it goes to."""

    name: str
    process: str
    door: Door
    terms: RunTerms
    max_up_mbit_s: float = 0.0
    tapes: Path | None = None
    checkpoint: Path | None = None
    checkpoint_every_s: float = 0.0
    max_alone_s: float = 0.0

    def owner(self, island: Island, inner: InnerState) -> Owner:
        """Whose inner state it is."""
        return Owner(self.door.run, self.name, island.layout.fingerprint(), inner.kind)


class Ferry:
    """`start` begins; `tell` takes events of the core from any thread."""

    def __init__(self, passage: Passage, island: Island, mailbox: Mailbox, inner: InnerState):
        self.passage = passage
        self.island = island
        self.mailbox = mailbox
        self.tell = mailbox.inbox.put
        self.core = LearnerCore(passage.terms.protocol, passage.name, island.layout.fingerprint())
        self._tape = FerryTape(passage.tapes, self.core, passage.process)
        self.transfers = Transfers(passage.door, passage.terms, island, self.tell)
        checkpoints = None
        if passage.checkpoint is not None and inner.kind:
            file = InnerFile(passage.checkpoint, passage.owner(island, inner))
            every_s = passage.checkpoint_every_s
            checkpoints = Checkpoints(file, island.layout.num_fragments, every_s)
        self.errands = Errands(inner, mailbox, self.transfers, checkpoints)
        self._inherited: dict[int, FetchedInner] = {}
        self.link = ControlLink(passage.door, self.tell)
        self._thread = threading.Thread(target=self._run, name="atoll-ferry", daemon=True)
        self._turn = 0
        self._solitude = Solitude(passage.max_alone_s)
        self._welcomed = False
        self._wanted: list[str] = []
        self._jobs: dict[tuple[type, int], Job] = {}
        self._cuts: dict[int, KeptCut] = {}
        self._held: dict[int, Published] = {}
        self._newest: dict[int, Published] = {}

    def start(self, restore_s: float = 0.0) -> None:
        """Ask to join, and carry from then on; `restore_s`: longest wait for inner state."""
        self.transfers.limit(self.passage.max_up_mbit_s)
        if restore_s > 0 and self.errands.inner.kind and self.passage.terms.relays_inner:
            self.tell(ev.RestoreAsked(self.errands.inner.kind, restore_s))
        self.tell(ev.JoinAsked(self.passage.process))
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; True when it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def is_under_way(self) -> bool:
        """Something had been merged when this learner came in."""
        return any(published.version > 0 for published in list(self._newest.values()))

    # ------------------------------------------------------------ the loop

    def _run(self) -> None:
        self._tape.open()
        try:
            while self.mailbox.over is None:
                self._take(self._next())
                self._end_if_alone()
        except BaseException as error:  # the edge of the thread: training must hear of it
            log.exception("the thread that carries fragments died")
            self.mailbox.die(error)
        finally:
            self.link.close(CLOSE_S)
            self.transfers.stop(CLOSE_S)
            self._tape.close()

    def _next(self) -> object:
        """What came, or a tick when the core's deadline is reached first."""
        due_s = self.core.next_deadline_s()
        left_s = due_s - time.monotonic()
        if left_s <= 0:
            return ev.Tick()
        try:
            nap_s = min(left_s, LONGEST_NAP_S, self._solitude.left_s(time.monotonic()))
            return self.mailbox.inbox.get(timeout=max(0.0, nap_s))
        except queue.Empty:
            return None

    def _end_if_alone(self) -> None:
        """A lost island does not train for nothing for ever, where its owner set a limit."""
        why = self._solitude.sentence(time.monotonic()) if self.mailbox.joined else ""
        if why and self.mailbox.over is None:
            log.error("%s: %s", self.passage.name, why)
            self.mailbox.end(Reason(ALONE, why), failed=False)

    def _take(self, item: object) -> None:
        match item:
            case None:
                pass
            case Crossed():
                self._crossed(item)
            case FrameCame():
                self._solitude.heard()
                self._frame(item)
            case FetchedVersion():
                self._fetched(item)
            case FetchedInner():
                self._fetched_inner(item)
            case CheckpointWritten():
                self.errands.written(item)
            case LinkOpened():
                self._turn, self._welcomed, self.mailbox.trouble = item.turn, False, ""
                self.transfers.workers.follow()
                self._handle(ev.LinkUp(COORDINATOR))
            case LinkLost():
                self._lost(item)
            case InitialFailed():
                log.warning("version 0 of fragment %d: %s", item.fragment, item.why)
            case Crashed():
                raise item.cause
            case _:
                self._handle(item)

    def _handle(self, event: object) -> None:
        now_s = time.monotonic()
        effects = self.core.handle(now_s, event)
        self._tape.record(now_s, event, effects)
        state = self.core.state
        self.mailbox.incarnation = state.incarnation
        for effect in effects:
            self._carry_out(effect)
        figures = Figures(state.trained, state.counted, state.budget, state.life_position)
        if figures != self.mailbox.figures:
            self.mailbox.figures = figures
        if isinstance(event, ev.Tick):
            due_s = self.core.next_deadline_s()
            assert due_s > state.now_s or math.isinf(due_s), "a tick must move the deadline"

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                for party in effect.to:
                    self.link.send(encode(party, effect.message))
            case fx.CutOrder():
                self._order(CutJob(effect.fragment, effect.id))
            case fx.InstallOrder():
                self._order(self._install_job(effect))
            case fx.Withdraw():
                for kind in (CutJob, InstallJob):
                    job = self._jobs.pop((kind, effect.fragment), None)
                    if job is not None:
                        job.withdrawn = True
            case fx.Upload():
                self.transfers.upload(effect.cut, self._cuts[effect.cut.id.number])
            case fx.Forget():
                self._forget(effect.cut)
            case fx.Fetch():
                base = None if effect.full else self._newest.get(effect.fragment)
                self.transfers.fetch(effect.fragment, effect.version, effect.digest, base)
            case fx.Connect():
                self._connect(effect.party)
            case fx.CopyInner():
                self.errands.lend(effect)
            case fx.FetchInner():
                self.transfers.fetch_inner(effect, self.errands.inner)
            case fx.Inherit():
                self._inherit(effect)
            case fx.UploadInitial():
                log.info("this learner provides version 0: %s", effect.reason)
                self.transfers.upload_initial()
            case _:
                self._say(effect)

    def _say(self, effect: fx.Effect) -> None:
        match effect:
            case fx.UseLease():
                self.mailbox.lend(effect.lease)
            case fx.Joined():
                self.mailbox.joined = True
                self.mailbox.news.set()
                log.info("%s takes part: %s", self.passage.name, effect.reason)
            case fx.Note():
                self._note(effect.reason)
            case fx.Refuse():
                log.debug("not taken into account: %s", effect.reason)
            case fx.Over():
                level = logging.ERROR if effect.failed else logging.INFO
                log.log(level, "%s: %s", self.passage.name, effect.reason)
                self.mailbox.end(effect.reason, effect.failed)
            case _:
                raise AssertionError(f"a learner's core does not want {type(effect).__name__}")

    def _note(self, reason: Reason) -> None:
        level = logging.INFO if reason.code in QUIET else logging.WARNING
        log.log(level, "%s: %s", self.passage.name, reason)
        if not self.mailbox.joined:
            self.mailbox.trouble = str(reason)

    # ------------------------------------------------------------ boundaries

    def _order(self, job: Job) -> None:
        self._jobs[type(job), job.fragment] = job
        self.mailbox.order(job)

    def _install_job(self, order: fx.InstallOrder) -> InstallJob:
        fragment, published = order.fragment, self._newest[order.fragment]
        assert published.version == order.version, "what is ordered was fetched last"
        base = accepted = None
        if order.rule == "keep":
            base = self.island.rounded(fragment, self._held[fragment].values)
            if order.accepted >= 0:
                kept = self._cuts[order.accepted]
                numel = self.transfers.numel(fragment)
                accepted = kept.accepted(self.passage.terms.uplink, numel, order.scale)
        alpha = self.passage.terms.protocol.alpha
        received = Received(order.rule, published.values, base, accepted, alpha)
        there, ready = self.island.bring(received)
        return InstallJob(fragment, published, there, ready)

    def _crossed(self, crossed: Crossed) -> None:
        """What was done at a boundary counts only where the order still stood."""
        cuts, installs = [], []
        for installed in crossed.installs:
            if self._stood(installed):
                self._held[installed.fragment] = installed.published
                installs.append(installed.fragment)
        for cut in crossed.cuts:
            if self._stood(cut.job):
                fragment = cut.job.fragment
                self._cuts[cut.job.id.number] = KeptCut(fragment, cut.base, cut.staging)
                cuts.append(fragment)
            else:
                self.island.pool.give_back(cut.staging)
        self.errands.crossed(crossed.inner)
        self._handle(
            ev.Boundary(crossed.step, crossed.tokens, crossed.pace_s, tuple(cuts), tuple(installs))
        )

    def _stood(self, job: Job) -> bool:
        """A job was done, and nobody had taken it back."""
        key = (type(job), job.fragment)
        if self._jobs.get(key) is not job:
            return False
        del self._jobs[key]
        return True

    def _fetched(self, item: FetchedVersion) -> None:
        """What an earlier life asked for is not what this one's orders will mean."""
        if self.core.state.holdings[item.fragment].fetching >= 0:
            self._newest[item.fragment] = item.published
        self._handle(ev.Fetched(item.fragment, item.published.version))

    def _fetched_inner(self, item: FetchedInner) -> None:
        """What came of an earlier try is not what this one takes."""
        if self.core.state.restore.transfer == item.order.transfer:
            self._inherited[item.order.index] = item
        self._handle(ev.InnerFetched(item.order.transfer, item.order.index))

    def _inherit(self, order: fx.Inherit) -> None:
        """What came from one donor is handed over whole, or nothing of it."""
        taken, self._inherited = self._inherited, {}
        bodies = {
            i: each.body for i, each in taken.items() if each.order.transfer == order.transfer
        }
        self.mailbox.inherited = Inherited(order.donor, bodies, order.reason)
        self.mailbox.news.set()

    def _forget(self, cut: CutId) -> None:
        kept = self._cuts.pop(cut.number, None)
        if kept is not None:
            self.transfers.forget(kept)

    # ------------------------------------------------------------ the control connection

    def _connect(self, party: str) -> None:
        """All parties speak over one connection; shards are there once it was welcomed."""
        if party == COORDINATOR:
            self.link.ask()
        elif self._welcomed:
            self.tell(ev.LinkUp(party))
        elif party not in self._wanted:
            self._wanted.append(party)

    def _frame(self, frame: FrameCame) -> None:
        if frame.turn != self._turn:
            return
        try:
            _, message = decode(frame.text, limit_bytes=len(frame.text) + 1, kinds=FROM_SYNCER)
        except WireError as error:
            log.warning("the syncer sent a frame that is not understood: %s", error.sentence)
            return
        if isinstance(message, Welcome):
            self._welcomed = True
        self._handle(message)
        if self._welcomed:
            wanted, self._wanted = self._wanted, []
            for party in wanted:
                self.tell(ev.LinkUp(party))

    def _lost(self, lost: LinkLost) -> None:
        """A connection that stood, or one that could not be had: the core asks for the next."""
        self.mailbox.trouble = lost.why
        self._solitude.lost(time.monotonic(), lost.why)
        if not lost.stood:
            log.warning("%s: no connection to the syncer: %s", self.passage.name, lost.why)
            self.link.ask()
            return
        self._welcomed = False
        parties = [party for party, stands in self.core.state.links.items() if stands]
        for party in parties or [COORDINATOR]:
            self._handle(ev.LinkDown(party, lost.why))
