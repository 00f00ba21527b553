"""The control thread's half of the service: cores, links, and the hands that carry effects out.

Everything here runs on the control thread, one call at a time; workers and other loops come in by
`post` and `ask` of `ControlThread`. Must never block: disks and tensors are the workers'. Keeps
invariant 2: a version enters the vault, and is told, only after its record is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core import messages as msg
from atoll.core.coordinator_state import ENDED, INITIAL
from atoll.core.ids import COORDINATOR, Cut, CutId, TransferId, shard_party
from atoll.core.reasons import Reason
from atoll.merge.merge import FragmentState
from atoll.store.errors import DiskFailed, DiskFull, StoreError
from atoll.syncer.durable import AppliedPrefix
from atoll.syncer.errors import RefusedError, starting
from atoll.syncer.initial_file import InitialFile
from atoll.syncer.intake import MERGED, Parcel, inner_place
from atoll.syncer.links import GOING_AWAY, REFUSED, Link, LinkBook
from atoll.syncer.merging import MergeDone, MergeJob, run_merge
from atoll.syncer.recovery import OpenRun
from atoll.syncer.snapshots import SnapshotPlan, snapshot_job
from atoll.syncer.surroundings import Surroundings
from atoll.wire.frames import encode

log = logging.getLogger("atoll.syncer")

PERSIST_RETRY_S = 1.0
GONE_CODES = ("closed", "counted")


class Engine:
    """Drives the cores of a run, once its layout is known."""

    def __init__(self, around: Surroundings, upto_lsn: int) -> None:
        self.around = around
        self.book = LinkBook()
        self.run: OpenRun | None = None
        self.notes: list[str] = []
        self._trouble = ""
        self._snapshot_trouble = ""
        self._applied = AppliedPrefix(upto_lsn)
        self._plan = SnapshotPlan(around.settings.service)
        self._said: dict[tuple[str, str], str] = {}
        self._stopping = False

    @property
    def trouble(self) -> str:
        """Why records cannot be kept at the moment, or snapshots since the last attempt."""
        return self._trouble or self._snapshot_trouble

    # ------------------------------------------------------------ the run

    def begin(self, run: OpenRun, restarted: bool, lsn: int = 0) -> None:
        """A run is here: new, or read back from the store."""
        assert self.run is None, "one process drives one run"
        self.run, run.cores.hands = run, self
        snapshots = self.around.keeper.store.snapshots
        tokens = snapshots[-1].tokens if snapshots else 0
        self._plan.began(run.cores.coordinator.state.now_s, tokens)
        if lsn:
            self._applied.applied(lsn)
        if restarted:
            epoch = self.around.keeper.store.epoch
            for party in run.cores.parties:
                run.cores.tell(party, ev.Restarted(epoch))
        for index in range(len(run.cores.shards)):
            run.cores.tell(COORDINATOR, ev.Connected(shard_party(index), 0))
        phase = run.cores.coordinator.state.phase
        if phase == ENDED:
            self.around.on_ended()
        elif phase == INITIAL and self.around.initial is not None:
            self._submit(self.around.workers.merge, self._initial_now, run, self.around.initial)

    def open_run(self) -> OpenRun:
        """The run, or a refusal where its layout is not known yet."""
        if self.run is None:
            raise starting("no learner has brought the layout yet: PUT layout first")
        return self.run

    def next_deadline_s(self) -> float:
        """When to call `tick`."""
        return float("inf") if self.run is None else self.run.cores.next_deadline_s()

    def tick(self) -> None:
        """The one timer fired."""
        if self.run is not None:
            self.run.cores.tick()

    def stop_asked(self, why: str) -> None:
        """The run is to end, with last rounds."""
        self.open_run().cores.tell(COORDINATOR, ev.StopAsked(why))

    # ------------------------------------------------------------ control connections

    def heard(self, link: Link, party: str, message: object) -> None:
        """A frame of a learner."""
        run = self.run
        if run is None:
            link.close(GOING_AWAY, "starting: no learner has brought the layout yet")
            return
        self.around.counts.control_frames_in += 1
        wrong = self._not_theirs(run, link, party, message)
        if wrong:
            self.around.counts.refuse("foreign")
            link.close(REFUSED, f"foreign: {wrong}")
            return
        run.cores.tell(party, message)

    def _not_theirs(self, run: OpenRun, link: Link, party: str, message: object) -> str:
        if party not in run.cores.parties:
            return f"there is no {party}"
        if isinstance(message, msg.Hello):
            if party != COORDINATOR:
                return "Hello goes to the coordinator"
            return self.book.greet(link, message)
        who: Any = message.cut.id if isinstance(message, msg.Announce) else message
        if (who.learner, who.incarnation) != (link.learner, link.incarnation):
            speaker = f"{link.learner}.{link.incarnation}" if link.incarnation else "nobody yet"
            return f"{who.learner}.{who.incarnation} is named, this connection is {speaker}"
        return ""

    def gone(self, link: Link, why: str) -> None:
        """A control connection has ended."""
        if not self.book.gone(link) or self.run is None:
            return
        event = ev.Disconnected(link.learner, link.incarnation, link.why or why)
        for party in self.run.cores.parties:
            self.run.cores.tell(party, event)

    def close_all(self, why: str) -> None:
        """Say goodbye to everybody."""
        self._stopping = True
        for link in list(self.book.links.values()):
            link.close(GOING_AWAY, why)

    # ------------------------------------------------------------ bulk

    def upload_fate(self, cut: CutId, fragment: int) -> tuple[str, str]:
        """What is known of a cut before its bytes come: code and sentence, empty for welcome."""
        run = self.open_run()
        kept = run.cores.shard(fragment).state
        state = kept.fragments[fragment // len(run.cores.shards)]
        mark, seat = state.marks.get(cut.learner), kept.seats.get(cut.learner)
        if mark is not None and mark.incarnation == cut.incarnation and mark.cut >= cut.number:
            if mark.cut == cut.number:
                return MERGED, f"{cut} is in version {mark.version}"
            return "counted", f"a newer cut is in version {mark.version}"
        if seat is None or seat.incarnation != cut.incarnation:
            return "stale", f"{cut} is of no present life of {cut.learner}"
        if state.final:
            return "closed", f"fragment {fragment} has had its last round"
        return "", ""

    def arrived(self, parcel: Parcel, cut: Cut, defect: str = "") -> None:
        """A complete contribution, for its shard; RefusedError where it is not wanted."""
        run = self.open_run()
        party = run.cores.owner(cut.fragment)
        for effect in run.cores.tell(party, ev.Arrived(cut, defect)):
            reason = effect.reason
            if isinstance(effect, fx.Refuse) and reason.code != "duplicate":
                self.around.intake.drop(parcel.place, "stale", reason.sentence)
                raise RefusedError(409, "stale", reason.sentence)
            ours = isinstance(effect, fx.Discard) and effect.cut == cut.id
            if ours and not defect:
                code = reason.code
                raise RefusedError(410 if code in GONE_CODES else 409, code, reason.sentence)

    def initialiser(self) -> int:
        """The life that version 0 is awaited from; RefusedError where it is from nobody."""
        state = self.open_run().cores.coordinator.state
        if state.phase != INITIAL or not state.initialiser_life:
            raise RefusedError(409, "not_initialiser", "version 0 is awaited from nobody now")
        return state.initialiser_life

    def initial_stored(self, fragment: int, state: FragmentState, lsn: int) -> None:
        """Version 0 of a fragment is durable."""
        run = self.open_run()
        self._applied.applied(lsn)
        run.vault.begin(fragment, state)
        event = ev.InitialStored(fragment, state.published.digest)
        run.cores.tell(run.cores.owner(fragment), event)
        if self.around.tapes is not None and self.around.tapes.keeps_payloads:
            self._submit(self.around.workers.snapshot, self._base_now, fragment, state)

    def _base_now(self, fragment: int, state: FragmentState) -> None:
        tapes = self.around.tapes
        assert tapes is not None, "asked for only where tapes are kept"
        self.around.post(tapes.note, tapes.base_note(fragment, state))

    def inner_wanted(self, transfer: TransferId, index: int) -> None:
        """RefusedError unless this inner state is what is asked for at the moment."""
        if not self.open_run().cores.coordinator.awaits_inner(transfer, index):
            text = f"inner state {index} of transfer {transfer} is not asked for"
            raise RefusedError(409, "unwanted", text)

    def inner_arrived(self, event: ev.InnerArrived) -> None:
        """A donor's inner state of a fragment is complete; RefusedError where nobody waits."""
        for effect in self.open_run().cores.tell(COORDINATOR, event):
            if isinstance(effect, fx.Refuse):
                raise RefusedError(409, "unwanted", effect.reason.sentence)

    def _initial_now(self, run: OpenRun, initial: InitialFile) -> None:
        for fragment, state, lsn in initial.store(run.vault, self.around.keeper):
            self.around.post(self.initial_stored, fragment, state, lsn)

    # ------------------------------------------------------------ hands

    def deliver(self, party: str, to: str, message: object) -> None:
        """A message to a learner; lost when it is not connected."""
        run = self.open_run()
        if isinstance(message, msg.Welcome):
            link, before = self.book.bind(message)
            if before is not None:
                before.close(GOING_AWAY, "a newer connection of the same process is here")
            if link is None:
                return
            link.send(encode(party, message))
            self.around.counts.control_frames_out += 1
            for index in range(len(run.cores.shards)):
                run.cores.enqueue(shard_party(index), ev.Connected(to, message.incarnation))
            return
        links = self.book.reach(to, message)
        if links:
            frame = encode(party, message)
            self.around.counts.control_frames_out += len(links)
            for link in links:
                link.send(frame)

    def close(self, learner: str, incarnation: int, reason: Reason) -> None:
        """Close the connections of a life, after what is queued."""
        for link in self.book.of_life(learner, incarnation):
            link.close(REFUSED, f"{reason.code}: {reason}")

    def say(self, party: str, who: str, reason: Reason) -> None:
        """Log a sentence when it changes; keep the last ones for the status."""
        if who:
            self.around.counts.refuse(reason.code)
        key = (f"{party} {who}", reason.code)
        if self._said.get(key) == reason.sentence:
            return
        if len(self._said) > 4096:
            self._said.clear()
        self._said[key] = reason.sentence
        text = f"{party}: {who + ' is refused, ' if who else ''}{reason.code}: {reason.sentence}"
        log.info("%s", text)
        self.notes = [*self.notes[-49:], text]

    def discard(self, cut: CutId, fragment: int, reason: Reason) -> None:
        """Give a contribution's memory back."""
        self.around.intake.drop((str(cut), fragment), reason.code, reason.sentence)

    def forget_inner(self, transfer: TransferId, upto: int) -> None:
        """Give the memory of inner state back that its heir has, or nobody waits for."""
        for index in range(upto):
            self.around.intake.drop(inner_place(transfer, index), "", "")

    def persist(self, record: fx.Persist) -> None:
        """Make a record durable, however long that takes."""
        if not self._stopping:
            self._submit(self.around.workers.persist, self._persist_now, record)

    def merge(self, order: fx.Merge) -> None:
        """Merge on a worker."""
        if self._stopping:
            return
        run, around = self.open_run(), self.around
        state = run.vault.state(order.fragment)
        assert state is not None, "a merge follows version 0"
        merger = run.vault.mergers[order.fragment]
        codec = around.settings.uplink
        job = MergeJob(order, state, merger, codec, around.intake, around.keeper, around.tapes)
        self._submit(around.workers.merge, self._merge_now, job)

    # ------------------------------------------------------------ outcomes

    def _merge_now(self, job: MergeJob) -> None:
        outcome = run_merge(job)
        self.around.post(self._merge_over, outcome)

    def _merge_over(self, outcome: MergeDone | ev.MergeFailed) -> None:
        run = self.open_run()
        party = run.cores.owner(
            outcome.order.fragment if isinstance(outcome, MergeDone) else outcome.fragment
        )
        if isinstance(outcome, ev.MergeFailed):
            self._trouble = "" if outcome.bad else f"{outcome.code}: {outcome.detail}"
            log.warning("merge of fragment %d: %s", outcome.fragment, outcome.detail)
            run.cores.tell(party, outcome)
            return
        order, increment = outcome.order, outcome.result.increment
        self._trouble = ""
        self.around.counts.merges += 1
        self.around.counts.merge_s += outcome.merge_s
        self._applied.applied(outcome.lsn)
        run.vault.advance(order.fragment, outcome.result.state, increment)
        for part in order.parts:
            text = f"{part.cut.id} is in version {order.version}"
            self.around.intake.drop((str(part.cut.id), order.fragment), MERGED, text)
        if self.around.tapes is not None and outcome.note is not None:
            self.around.tapes.note(outcome.note)
        run.cores.tell(party, ev.Merged(order.fragment, order.version, increment.digest))
        self._plan.changed()
        self._snapshot_if_due()

    def _persist_now(self, record: fx.Persist) -> None:
        around = self.around
        while True:
            try:
                lsn = around.keeper.persist(record)
            except (DiskFull, DiskFailed) as error:
                around.post(self._in_trouble, str(error))
                if around.workers.stopping.wait(PERSIST_RETRY_S):
                    return
                continue
            around.post(self._persisted, record.number, lsn)
            return

    def _persisted(self, number: int, lsn: int) -> None:
        self._trouble = ""
        self._applied.applied(lsn)
        cores = self.open_run().cores
        before = cores.coordinator.state.phase
        cores.tell(COORDINATOR, ev.Persisted(number))
        self._plan.changed()
        self._snapshot_if_due()
        if cores.coordinator.state.phase == ENDED != before:
            self.around.on_ended()

    def _in_trouble(self, sentence: str) -> None:
        if self._trouble != sentence:
            log.error("%s", sentence)
        self._trouble = sentence

    def _submit(self, pool: Any, function: Callable[..., None], *args: object) -> None:
        pool.submit(function, *args).add_done_callback(self._check)

    def _check(self, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            self.around.on_fatal(error)

    # ------------------------------------------------------------ snapshots

    def _snapshot_if_due(self) -> None:
        run = self.open_run()
        state = run.cores.coordinator.state
        if not self._stopping and self._plan.take(state.now_s, state.trained):
            job = snapshot_job(run, self.around.settings, self._applied.upto_lsn)
            self._submit(self.around.workers.snapshot, self._snapshot_now, job)

    def _snapshot_now(self, job: Any) -> None:
        trouble = ""
        try:
            self.around.keeper.snapshot(job)
        except (DiskFull, DiskFailed) as error:
            trouble = str(error)
        self.around.post(self._snapshot_over, trouble)

    def _snapshot_over(self, trouble: str) -> None:
        self._plan.done(failed=bool(trouble))
        self.around.counts.snapshots += int(not trouble)
        self._snapshot_trouble = ""
        if trouble:
            self._snapshot_trouble = f"no snapshot, the log has everything: {trouble}"
            log.error("%s", self._snapshot_trouble)

    def last_snapshot(self) -> Callable[[], None]:
        """What to do, off this thread, when everything else has come to rest."""
        if self.run is None or not self.run.vault.states():
            return lambda: None
        job = snapshot_job(self.run, self.around.settings, self._applied.upto_lsn)

        def write() -> None:
            try:
                self.around.keeper.snapshot(job)
            except StoreError as error:
                log.warning("no snapshot at the end, the log has everything: %s", error)

        return write
