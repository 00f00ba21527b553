"""A run with faults: training and storm started, watched, written down, stopped.

    run.toml, tapes/, ...     as every run has them (see launch/folder.py)
    links/                    orders for the syncer's disk
    timeline.jsonl            every fault as it is done, lifted, noticed and healed
    chaos.json                the report; timeline.png its picture

`Campaign.run` yields how it stands, for a display. The storm begins when every learner trains and
ends with the plan; then whoever has not healed has time to, and the run is stopped in order.
Must never leave a process, a frozen one above all, or a fault behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atoll.access.addresses import Address
from atoll.access.invite import read_invite, write_invite
from atoll.chaos.census import Census
from atoll.chaos.hands import Hands
from atoll.chaos.links import Links
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.chaos.tail import TapeTail
from atoll.chaos.watch import Watch
from atoll.chaos.weather import Storm
from atoll.core.settings import SettingsError
from atoll.launch.folder import LOOPBACK, RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.local import LaunchError, Progress
from atoll.launch.session import Session
from atoll.runfile.settings import RunFile
from atoll.tape.format import Header

TOGETHER_S = 600.0
"""So long all learners have to begin to train."""
HEAL_S = 120.0
"""So long whoever was hit last has to heal after the storm."""
READ_EVERY_S = 1.0
WARM_ROUNDS = 2.0
"""Rounds of all fragments before the storm once every learner is there: all are in them then."""
SETTLE_ROUNDS = 1.5
"""Rounds of all fragments after the last healing, so that what was trained before is merged."""
RESTARTS = 10_000
"""A storm restarts more often than a run would put up with."""
START_S = 120.0
"""Added to the budget for learners that train while others still start."""


def run_for(run_file: RunFile, minutes: float) -> RunFile:
    """The same run with a budget that lasts so long, and restarts without end."""
    train, local = run_file.train, run_file.local
    if local.min_step_s <= 0:
        raise SettingsError(
            "local.min_step_s is 0: steps have to be paced, or a killed learner hands its "
            "processor time to the others and the figures mean nothing; set it to 0.5, say"
        )
    steps = (60 * minutes + START_S) / local.min_step_s
    budget = int(steps * local.learners * train.batch_size * train.model.context)
    run = replace(run_file.syncer.run, budget_tokens=budget)
    return replace(
        run_file,
        syncer=replace(run_file.syncer, run=run),
        train=replace(train, budget_tokens=budget),
        local=replace(local, restarts=RESTARTS),
    )


@dataclass(slots=True)
class Campaign:
    """One run under faults; without faults it is the run that the others are compared with."""

    root: Path
    run_file: RunFile
    faults: list[Fault]
    minutes: float
    on_look: Callable[[Campaign], None] = lambda _: None
    """Called at every look, for whoever measures more."""
    census: Census = field(default_factory=Census)
    begun_s: float = -1.0
    """When every learner had trained for two rounds: the storm's beginning."""
    ended_s: float = -1.0
    events: list[tuple[float, str, str]] = field(default_factory=list)
    """What a person would want to read: time, who, what."""
    watch: Watch = field(init=False)
    session: Session = field(init=False)
    links: Links = field(init=False)
    storm: Storm = field(init=False)
    _tail: TapeTail = field(init=False)
    _read_s: float = 0.0
    _together_s: float = float("inf")
    _status: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watch = Watch(self._say)

    def run(self) -> Generator[Progress, None, None]:
        """Everything, to the end; `report` reads what it left."""
        folder = RunFolder(self.root)
        run_file, new = folder.prepare(with_leases(run_for(self.run_file, self.minutes)))
        if not new:
            raise SettingsError(f"{self.root} holds a run already: name another folder with --dir")
        self.run_file = run_file
        self._tail = TapeTail(folder.tapes)
        names = [f"island-{number}" for number in range(run_file.local.learners)]
        self.links = Links(folder.address().port, len(names))
        try:
            self.links.open()
            self._invite(folder, names)
            self.session = Session(folder, run_file, new, self._disturb)
            self.storm = self._storm(folder, names)
            yield from self._session(folder)
        finally:
            self.links.close()

    @property
    def header(self) -> Header:
        """Of the tape of a shard; after `run`."""
        header = self._tail.header
        assert header is not None, "no shard has a tape"
        return header

    @property
    def now_s(self) -> float:
        """Seconds since the processes were started."""
        return time.monotonic() - self.session.local.began_s

    @property
    def storm_s(self) -> float:
        """Seconds since the storm began; negative before."""
        return self.now_s - self.begun_s if self.begun_s >= 0 else -1.0

    @property
    def is_over(self) -> bool:
        """The plan's time is over, and whoever was hit has healed or had the time to."""
        late_s = self.storm_s - 60 * self.minutes
        if self.begun_s < 0 or late_s < 0:
            return False
        healed = [each.healed_s for each in self.watch.struck if each.is_healed]
        all_healed = self.storm.is_over and len(healed) == len(self.watch.struck)
        last_s = max(healed, default=self.begun_s + 60 * self.minutes)
        settled = self.now_s >= last_s + self._settle_s
        return (all_healed and settled) or late_s > HEAL_S

    # ------------------------------------------------------------ inside

    def _session(self, folder: RunFolder) -> Generator[Progress, None, None]:
        looks = self.session.run()
        try:
            for progress in looks:
                yield progress
                if self.storm.error is not None:
                    raise self.storm.error
                if self.is_over:
                    self._look_at_loss(progress)
                    break
        finally:
            self.storm.stop()
            self.ended_s = self.now_s
            looks.close()  # type: ignore[attr-defined]
            self._read()
            self.watch.give_up_waiting()

    @property
    def _round_s(self) -> float:
        """In which every fragment is merged once."""
        return self.run_file.syncer.protocol.H * self.run_file.local.min_step_s

    @property
    def _warm_s(self) -> float:
        return WARM_ROUNDS * self._round_s

    @property
    def _settle_s(self) -> float:
        return SETTLE_ROUNDS * self._round_s + 2.0

    def _look_at_loss(self, progress: Progress) -> None:
        session = self.session
        loss = session.published.measure(progress.trained, self.now_s)
        if loss == loss:
            session.loss_last = progress.loss = loss

    def _invite(self, folder: RunFolder, names: list[str]) -> None:
        """Every learner comes in by its own link."""
        invite = read_invite(folder.invite)
        for name, port in zip(names, self.links.ports, strict=True):
            path = folder.own_invite(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_invite(path, replace(invite, addresses=(Address(LOOPBACK, port),)))

    def _storm(self, folder: RunFolder, names: list[str]) -> Storm:
        local = self.session.local
        orders = folder.root / "links"
        orders.mkdir()
        local.syncer_options = ["--chaos-dir", str(orders)]
        for child in local.learners.values():
            child.command += ["--chaos-dir", str(orders)]
        hands = Hands(
            processes={**local.learners, "syncer": local.syncer},
            links=self.links,
            ways={name: number for number, name in enumerate(names)},
            invite=read_invite(folder.invite),
            run_dir=folder.state / self.run_file.name,
            orders=orders,
        )
        return Storm(
            self.faults,
            hands,
            self.watch.struck.append,
            self._say,
            lambda: self.now_s,
            lambda learner: self.watch.lives.get(learner, 0),
        )

    def _disturb(self, session: Session) -> None:
        """At every look, in the main thread: see, read, begin the storm when all train."""
        progress, now_s = session.local.progress, self.now_s
        self._incidents()
        if progress.status is not self._status:
            self._status = progress.status
            self.watch.look(now_s, progress.status)
        else:
            self.watch.syncer_silent(now_s)
        if self.begun_s >= 0:
            self.census.look(now_s, progress.status, progress.loss)
        if now_s >= self._read_s + READ_EVERY_S:
            self._read_s = now_s
            self._read()
        if self.begun_s < 0:
            self._begin_when_all_train(progress)
        self.on_look(self)

    def _begin_when_all_train(self, progress: Progress) -> None:
        members = progress.status.get("learners", {}).values()
        training = [each for each in members if each["step"] > 0 and each["state"] == "live"]
        if len(training) == self.run_file.local.learners and self.watch.merges:
            self._together_s = min(self._together_s, self.now_s)
        if self.now_s >= self._together_s + self._warm_s:
            self.begun_s = self.now_s
            self._note(self.begun_s, "storm", f"begins: all {len(training)} learners train")
            self.storm.begin()
        elif self.now_s > TOGETHER_S:
            raise LaunchError(
                f"{len(training)} of {self.run_file.local.learners} learners train after "
                f"{TOGETHER_S:.0f} s: see {self.root / 'logs'}, or start fewer"
            )

    def _read(self) -> None:
        self.watch.read(self._tail.read())

    def _incidents(self) -> None:
        incidents = self.session.local.incidents
        known = len([1 for _, who, _ in self.events if who.startswith("+")])
        for each in incidents[known:]:
            self._note(each.at_s, f"+{each.name}", each.what)

    def _say(self, what: str, struck: Struck) -> None:
        """A fault is done, lifted, noticed or healed."""
        at_s = {
            "fault": struck.done_s,
            "lifted": struck.lifted_s,
            "noticed": struck.noticed_s,
            "healed": struck.healed_s,
        }[what]
        line = {"at_s": round(at_s, 2), "event": what, **struck.plain()}
        self._write(line)
        if what == "fault":
            self.events.append((at_s, struck.who, _words(struck)))
        elif what == "healed":
            text = f"healed {struck.heal_s:.1f} s after {struck.fault.kind}"
            self.events.append((at_s, struck.who, text))

    def _note(self, at_s: float, who: str, what: str) -> None:
        self._write({"at_s": round(at_s, 2), "event": "note", "who": who.lstrip("+"), "what": what})
        self.events.append((at_s, who, what))

    def _write(self, line: dict[str, Any]) -> None:
        with (self.root / "timeline.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _words(struck: Struck) -> str:
    lasts = f" for {struck.fault.for_s:g} s" if struck.fault.for_s else ""
    note = f" ({struck.note})" if struck.note else ""
    return f"{struck.fault.kind}{lasts}{note}"
