"""The storm itself: a thread that does each fault at its time, and lifts it when it is over.

A fault whose target is not there waits until it is; one whose target has not healed from the last
one waits too, though not for ever. What still waits when the run is stopped was left out. Must
never outlive the run: `stop` lifts everything that holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.chaos.hands import Hands
from atoll.chaos.kinds import SYNCER
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck

PATIENCE_S = 90.0
"""So long a fault waits for its target to heal from the last one; then it goes ahead."""
TICK_S = 0.05
STOP_S = 60.0


@dataclass(slots=True)
class Storm:
    """`begin` when everybody trains; `is_over` when every fault was done and lifted."""

    faults: list[Fault]
    hands: Hands
    tell: Callable[[Struck], None]
    """Is told of a fault that was done, to watch it."""
    say: Callable[[str, Struck], None]
    clock: Callable[[], float]
    life_of: Callable[[str], int]
    """The newest incarnation of a learner that was ever seen."""
    left_out: list[Fault] = field(default_factory=list)
    error: BaseException | None = None
    begun_s: float = 0.0
    num_done: int = 0
    _last: dict[str, Struck] = field(default_factory=dict)
    _held: list[Struck] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """The times of the faults count from now."""
        self.begun_s = self.clock()
        self._thread = threading.Thread(target=self._guarded, name="atoll-storm", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Nothing more will happen."""
        return self._thread is not None and not self._thread.is_alive()

    def stop(self) -> None:
        """No more faults; those that hold are lifted."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
        self.hands.lift_all()
        for each in self._held:
            self._lifted(each)
        self._held.clear()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  # the edge of a thread: whoever waits must hear of it
            self.error = error

    def _run(self) -> None:
        waiting = list(self.faults)
        while (waiting or self._held) and not self._stop.is_set():
            now_s = self.clock() - self.begun_s
            for fault in [each for each in waiting if each.at_s <= now_s]:
                if self._try(fault, now_s - fault.at_s):
                    waiting.remove(fault)
            for each in [each for each in self._held if self._is_due(each)]:
                self.hands.lift(each.fault)
                self._held.remove(each)
                self._lifted(each)
            time.sleep(TICK_S)
        self.left_out = waiting

    def _is_due(self, struck: Struck) -> bool:
        return self.clock() >= struck.done_s + struck.fault.for_s

    def _try(self, fault: Fault, late_s: float) -> bool:
        """True when it is done."""
        last = self._last.get(fault.who)
        if last is not None and not last.is_lifted:
            return False
        if last is not None and not last.is_healed and late_s < PATIENCE_S:
            return False
        life = 0 if fault.who == SYNCER else self.life_of(fault.who)
        struck = Struck(self.num_done + 1, fault, self.clock(), life)
        done, note = self.hands.begin(fault)
        if not done:
            return False
        struck.note, struck.refused = note, not note.startswith("BELIEVED")
        self._last[fault.who] = struck
        self.num_done += 1
        self.tell(struck)
        self.say("fault", struck)
        if fault.for_s:
            self._held.append(struck)
        else:
            self._lifted(struck)
        return True

    def _lifted(self, struck: Struck) -> None:
        struck.lifted_s = max(self.clock(), struck.done_s)
        if struck.fault.for_s:
            self.say("lifted", struck)
        elif struck.group == "lie" and struck.refused:
            struck.noticed_s = struck.lifted_s
