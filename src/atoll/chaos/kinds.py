"""The kinds of faults: what each does, to whom, and for how long unless it is said."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal

from atoll.core.settings import SettingsError

SYNCER: Final = "syncer"
Aim = Literal["learner", "syncer"]
Group = Literal["kill", "freeze", "link", "disk", "clock", "lie"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `for_s` is the range that a storm draws from; (0, 0): over in an instant."""

    name: str
    aim: Aim
    group: Group
    for_s: tuple[float, float]
    share: float
    """Share in a storm that does not say otherwise."""
    what: str

    @property
    def lasts(self) -> bool:
        """It holds for a while, and is lifted."""
        return self.for_s[1] > 0


_ALL = (
    Kind("kill", "learner", "kill", (0, 0), 30, "SIGKILL of a learner"),
    Kind("freeze", "learner", "freeze", (4, 20), 12, "SIGSTOP of a learner, then SIGCONT"),
    Kind("kill_syncer", "syncer", "kill", (0, 0), 5, "SIGKILL of the syncer"),
    Kind("freeze_syncer", "syncer", "freeze", (3, 12), 4, "SIGSTOP of the syncer, then SIGCONT"),
    Kind("cut", "learner", "link", (5, 25), 10, "the link passes nothing, and nobody is told"),
    Kind("cut_up", "learner", "link", (5, 20), 5, "the link passes nothing towards the syncer"),
    Kind("cut_down", "learner", "link", (5, 20), 5, "the link passes nothing from the syncer"),
    Kind("half_open", "learner", "link", (0, 0), 6, "the syncer hears a close, the learner not"),
    Kind("reset", "learner", "link", (0, 0), 6, "every connection of the link breaks"),
    Kind("slow", "learner", "link", (8, 25), 5, "1 Mbit/s and 100 ms later, each way"),
    Kind("lossy", "learner", "link", (8, 25), 5, "2 % of packets are lost and sent again"),
    Kind("disk_full", "syncer", "disk", (4, 12), 2, "the syncer's disk is full"),
    Kind("torn_log", "syncer", "disk", (0, 0), 1, "SIGKILL, and half a record ends the log"),
    Kind("torn_snapshot", "syncer", "disk", (0, 0), 1, "SIGKILL, and the newest snapshot is half"),
    Kind("clock", "learner", "clock", (4, 15), 2, "the wall clock jumps an hour ahead, then back"),
    Kind("clock_syncer", "syncer", "clock", (4, 15), 2, "the same for the syncer's"),
    Kind("garbage", "syncer", "lie", (0, 0), 2, "bytes and frames that are not what they say"),
    Kind("nan", "syncer", "lie", (0, 0), 1, "a contribution that is not a number"),
)
KINDS: dict[str, Kind] = {each.name: each for each in _ALL}
"""By name, in the order of the documentation."""


def kind_named(name: str) -> Kind:
    """The kind, or `SettingsError` with the nearest one."""
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(KINDS)}"
    raise SettingsError(f"unknown fault '{name}': {hint}")
