"""What became of each fault: when it was done and lifted, noticed and healed.

    noticed   the syncer (for faults of the syncer: who looks after it) saw that something is wrong
    healed    work of the healed was merged again: a kill by a later life of the learner, all else
              by a contribution that arrived after the fault was lifted; for faults of the syncer
              the first merge after that

Times are seconds since the run's processes were started; -1 stands for "not yet" in JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from atoll.chaos.kinds import KINDS, Group
from atoll.chaos.plan import Fault

NEVER_S = -1.0


@dataclass(slots=True)
class Struck:
    """One fault that was done."""

    number: int
    fault: Fault
    done_s: float
    incarnation: int = 0
    """The life of the learner that was hit."""
    lifted_s: float = NEVER_S
    noticed_s: float = NEVER_S
    healed_s: float = NEVER_S
    steps_s: float = NEVER_S
    """When a killed learner's next life made a step."""
    note: str = ""
    refused: bool = True
    """False for a lie that was believed."""

    @property
    def who(self) -> str:
        """The target."""
        return self.fault.who

    @property
    def group(self) -> Group:
        """What kind of kind it is."""
        return KINDS[self.fault.kind].group

    @property
    def is_kill(self) -> bool:
        """A process died of it."""
        return self.group == "kill" or self.fault.kind in ("torn_log", "torn_snapshot")

    @property
    def is_lifted(self) -> bool:
        """It does not hold any more."""
        return self.lifted_s >= 0

    @property
    def is_healed(self) -> bool:
        """And its target's work is merged again."""
        return self.healed_s >= 0

    @property
    def notice_s(self) -> float:
        """From the fault to when it was noticed."""
        return self.noticed_s - self.done_s if self.noticed_s >= 0 else NEVER_S

    @property
    def heal_s(self) -> float:
        """From the fault to when it was healed, the time that it lasted included."""
        return self.healed_s - self.done_s if self.is_healed else NEVER_S

    @property
    def heal_after_lift_s(self) -> float:
        """From when it was over."""
        return self.healed_s - self.lifted_s if self.is_healed else NEVER_S

    @property
    def restart_s(self) -> float:
        """From a kill to the first step of the next life."""
        return self.steps_s - self.done_s if self.steps_s >= 0 else NEVER_S

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        figures = {"notice_s": self.notice_s, "heal_s": self.heal_s}
        figures |= {"heal_after_lift_s": self.heal_after_lift_s, "restart_s": self.restart_s}
        own = {key: value for key, value in asdict(self).items() if key != "fault"}
        plain = {"planned_s": self.fault.at_s, "kind": self.fault.kind, "who": self.who}
        plain |= {"for_s": self.fault.for_s, "group": self.group, **own, **figures}
        return {key: round(v, 2) if isinstance(v, float) else v for key, v in plain.items()}
