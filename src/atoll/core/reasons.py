"""Why something was decided: a code for machines, a sentence for people.

Two reasons are equal when their codes are; the sentence may carry figures that need not replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an effect was produced."""

    code: str
    sentence: str = field(compare=False, default="")

    def __str__(self) -> str:
        return self.sentence or self.code
