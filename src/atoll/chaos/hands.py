"""Carrying a fault out, and lifting it: signals, orders to links, disk and clocks, lies.

One thread calls it, the storm's. A fault whose target is not there now is refused with False and
tried again. Must never leave a fault behind: `lift_all` takes back whatever still holds.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from websockets.exceptions import WebSocketException

from atoll.access.invite import Invite
from atoll.chaos.hostile import Lie, send_garbage, send_nan
from atoll.chaos.kinds import KINDS, SYNCER
from atoll.chaos.links import WHOLE, Links
from atoll.chaos.plan import Fault
from atoll.chaos.proxy import Shape
from atoll.chaos.tear import tear_log, tear_snapshot
from atoll.ferry.errors import FerryError
from atoll.launch.child import Child
from atoll.store.orders import DISK_FULL, clock_order

CUT = Shape(cut=True)
SLOW = Shape(mbit_s=1.0, delay_s=0.1)
LOSSY = Shape(loss=0.02)
SHAPES: dict[str, tuple[Shape, Shape]] = {
    "cut": (CUT, CUT),
    "cut_up": (CUT, WHOLE),
    "cut_down": (WHOLE, CUT),
    "slow": (SLOW, SLOW),
    "lossy": (LOSSY, LOSSY),
}
"""Kind to the shapes of both directions; the first is towards the syncer."""
DEATH_S = 10.0
CLOCK_JUMP_S = 3600.0


@dataclass(slots=True)
class Hands:
    """`processes` by name, the syncer's too; `ways` is the number of each learner's link."""

    processes: Mapping[str, Child]
    links: Links
    ways: Mapping[str, int]
    invite: Invite
    run_dir: Path
    """Where the store keeps the run."""
    orders: Path
    """Where the syncer's disk looks, and everybody's wall clock."""
    _frozen: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lies: int = 0

    def begin(self, fault: Fault) -> tuple[bool, str]:
        """Do it. Returns whether it could be done now, and a note for people."""
        if KINDS[fault.kind].group == "lie":
            return self._lie(fault.kind)
        if self._process(fault.who) is None:
            return False, ""
        if fault.kind in SHAPES:
            up, down = SHAPES[fault.kind]
            self.links.shape([self.ways[fault.who]], up, down)
        elif fault.kind in ("reset", "half_open"):
            self.links.act([self.ways[fault.who]], fault.kind)
        elif fault.kind == "disk_full":
            (self.orders / DISK_FULL).touch()
        elif KINDS[fault.kind].group == "clock":
            clock_order(self.orders, fault.who).write_text(str(CLOCK_JUMP_S))
        elif fault.kind in ("freeze", "freeze_syncer"):
            return self._freeze(fault.who), ""
        else:
            return self._kill(fault)
        return True, ""

    def lift(self, fault: Fault) -> None:
        """The fault is over."""
        if fault.kind in SHAPES:
            self.links.shape([self.ways[fault.who]])
        elif fault.kind == "disk_full":
            (self.orders / DISK_FULL).unlink(missing_ok=True)
        elif KINDS[fault.kind].group == "clock":
            clock_order(self.orders, fault.who).unlink(missing_ok=True)
        elif fault.who in self._frozen:
            self._frozen.pop(fault.who).send_signal(signal.SIGCONT)
            self._tell_frozen()

    def lift_all(self) -> None:
        """Take back what holds, so that everything can be stopped in order."""
        for name in list(self._frozen):
            self._frozen.pop(name).send_signal(signal.SIGCONT)
        (self.orders / DISK_FULL).unlink(missing_ok=True)
        for name in self.processes:
            clock_order(self.orders, name).unlink(missing_ok=True)
        self.links.shape(list(self.ways.values()))

    def _process(self, who: str) -> subprocess.Popen[bytes] | None:
        process = self.processes[who].process
        return process if process is not None and process.poll() is None else None

    def _freeze(self, who: str) -> bool:
        process = self._process(who)
        if process is None:
            return False
        self._frozen[who] = process
        self._tell_frozen()
        process.send_signal(signal.SIGSTOP)
        return True

    def _tell_frozen(self) -> None:
        self.links.frozen([each.pid for each in self._frozen.values()])

    def _kill(self, fault: Fault) -> tuple[bool, str]:
        process = self._process(fault.who)
        if process is None:
            return False, ""
        process.send_signal(signal.SIGKILL)
        process.wait(DEATH_S)
        if fault.kind == "torn_log":
            return True, tear_log(self.run_dir)
        if fault.kind == "torn_snapshot":
            return True, tear_snapshot(self.run_dir)
        return True, ""

    def _lie(self, kind: str) -> tuple[bool, str]:
        if self._process(SYNCER) is None or SYNCER in self._frozen:
            return False, ""
        self._lies += 1
        name = f"stranger-{self._lies}"
        send = send_garbage if kind == "garbage" else send_nan
        try:
            return True, _told(send(self.invite, name))
        except (FerryError, OSError, WebSocketException):
            return False, ""


def _told(lies: list[Lie]) -> str:
    believed = [lie for lie in lies if not lie.refused]
    if believed:
        return "BELIEVED: " + "; ".join(f"{lie.what}: {lie.answer}" for lie in believed)
    return f"{len(lies)} of {len(lies)} refused: " + ", ".join(lie.answer for lie in lies)
