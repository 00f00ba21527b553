"""The syncer of one run as a service: threads, loops and their order of coming and going.

    control thread   cores, control connections, the one timer, accepting
    pulse            the sign of life for standbys, and the look at the fence
    bulk thread      everything else that is HTTP
    workers          hashing, fsync, decoding, merging, snapshots

Start: take the run over, replay, then listen. Stop: stop listening, say goodbye, let workers
finish, snapshot, close the store. Must never listen off the loopback without TLS, nor begin a run
that nobody asked for (invariants 4, 9).
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from atoll.access.addresses import Address, refuse_plain_listener
from atoll.access.tokens import Secret
from atoll.merge.backends import EAGER, Backend, CompiledBackend, has_compiler
from atoll.store.disk import Disk
from atoll.store.errors import Fenced
from atoll.store.heartbeat import ENDED, STOPPED
from atoll.store.store import StoreConfig
from atoll.syncer.control_thread import ControlThread, LoopThread
from atoll.syncer.cores import Recorder
from atoll.syncer.door import guard
from atoll.syncer.durable import Keeper
from atoll.syncer.engine import Engine
from atoll.syncer.errors import SyncerError
from atoll.syncer.initial_file import InitialFile
from atoll.syncer.intake import Intake
from atoll.syncer.pulse import Pulse
from atoll.syncer.recovery import Makings, recover
from atoll.syncer.running import Running
from atoll.syncer.settings import SyncerSettings
from atoll.syncer.surroundings import Counts, Surroundings
from atoll.syncer.taping import Tapes
from atoll.syncer.workers import make_workers

log = logging.getLogger("atoll.syncer")


@dataclass(frozen=True)
class SyncerOptions:
    """What a syncer is started with, beside its run's settings.

    `new`: begin the run on purpose. `after_epoch`: take it over from the owner of that epoch only
    (0: from whoever owns it). `tapes`: a folder for what every core sees and decides;
    `recorder` is told of it instead.
    """

    root: Path
    secret: Secret
    new: bool = False
    after_epoch: int = 0
    tls: ssl.SSLContext | None = None
    tapes: Path | None = None
    recorder: Recorder | None = None
    disk: Disk | None = None


@dataclass
class _Clock:
    """Monotonic, and never behind what the restored cores have seen."""

    base_s: float = 0.0
    born_s: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        return self.base_s + time.monotonic() - self.born_s

    def set_base(self, base_s: float) -> None:
        self.base_s = max(self.base_s, base_s)


class SyncerService:
    """`start()`, then `address`; `wait()` says why it is over; `stop()` in any case."""

    def __init__(self, settings: SyncerSettings, options: SyncerOptions) -> None:
        self.settings = settings
        self.options = options
        self.counts = Counts()
        self.error: Exception | None = None
        self.ended = threading.Event()
        """The run has ended; the service goes on serving it until it is stopped."""
        self._over = threading.Event()
        self._address: Address | None = None
        self._running: Running | None = None
        self._pulse: Pulse | None = None

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self._address is not None, "the service is not started"
        return self._address

    @property
    def engine(self) -> Engine:
        """The control thread's half; ask it through `ask` only."""
        assert self._running is not None, "the service is not started"
        return self._running.engine

    @property
    def control(self) -> ControlThread:
        """The way to it."""
        assert self._running is not None, "the service is not started"
        return self._running.control

    def start(self) -> Address:
        """Take the run over and listen. Raises SyncerError, StoreError, AccessError or OSError."""
        assert self._running is None, "a service is started once"
        service = self.settings.service
        if self.options.tls is None:
            refuse_plain_listener(service.host)
        initial = InitialFile.check(service.initial_file)
        keeper = self._open_store()
        self._pulse = Pulse(keeper.store, self._fail)
        self._pulse.start()
        try:
            self._running = self._prepare(keeper, initial)
        except BaseException:
            self._pulse.stop()
            keeper.store.close()
            raise
        try:
            self._address = self._running.listen(self.options.tls)
        except BaseException:
            self.stop()
            raise
        return self._address

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the service cannot go on; False when the time is over first. See `error`."""
        return self._over.wait(timeout_s)

    def ask_to_stop(self) -> None:
        """Have `wait` return; safe in a signal handler."""
        self._over.set()

    def stop(self) -> None:
        """In order, with a snapshot; may be called twice."""
        running, self._running = self._running, None
        if running is not None:
            running.stop(snapshot=self.error is None)
            assert self._pulse is not None, "it began before anything ran"
            self._pulse.stop(ENDED if self.ended.is_set() else STOPPED)
        self._over.set()

    # ------------------------------------------------------------ inside

    def _open_store(self) -> Keeper:
        settings, options = self.settings, self.options
        root, run = options.root, settings.run.run
        config = StoreConfig(retention=settings.service.retention)
        if options.new:
            return Keeper.begin(root, run, settings.numbers(), config, options.disk)
        numbers, after = settings.numbers(), options.after_epoch
        return Keeper.take_over(root, run, numbers, config, after, options.disk)

    def _prepare(self, keeper: Keeper, initial: InitialFile | None) -> Running:
        clock, service = _Clock(), self.settings.service
        options, tapes = self.options, None
        if options.tapes is not None:
            tapes = Tapes(options.tapes, service.tape_payloads)
        makings = Makings(self.settings, clock.now_s, options.recorder, self._backend(), tapes)
        run = recover(makings, keeper, clock.set_base)
        workers = make_workers(service.merge_threads)
        control = ControlThread(clock.now_s, self._fail)
        around = Surroundings(
            settings=self.settings,
            keeper=keeper,
            intake=Intake(service.memory_bytes),
            workers=workers,
            counts=self.counts,
            post=control.post,
            on_fatal=self._fail,
            on_ended=self.ended.set,
            initial=initial,
            tapes=tapes,
        )
        engine = Engine(around, keeper.store.last_lsn)
        control.drive(engine.next_deadline_s, engine.tick)
        control.start()
        running = Running(engine, control, LoopThread("atoll-http"), workers, tapes)
        running.bulk.start()
        if run is not None:
            control.ask(engine.begin, run, True).result()
        running.serve(makings, guard(self.options.secret, self.settings.run.run, self.counts))
        return running

    def _backend(self) -> Backend:
        if not self.settings.service.compile_merges:
            return EAGER
        if not has_compiler():
            raise SyncerError(
                "compile_merges needs a C++ compiler: install g++, or set it to false"
            )
        backend = CompiledBackend()
        backend.warm_in_background(self.settings.uplink, self.settings.protocol.M)
        return backend

    def _fail(self, error: Exception) -> None:
        """Something that must not be gone on from; from any thread."""
        if self.error is None:
            self.error = error
            if isinstance(error, Fenced):
                log.error("%s", error)
            else:
                log.error("the syncer cannot go on", exc_info=error)
        self._over.set()
