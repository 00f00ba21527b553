"""How much a contribution counts in a merge, and by how much it is scaled.

weight = tokens * (tokens / steps): quantity times quality. A displacement over more than H steps
is scaled by H / steps and weighs at most H steps' tokens, because merging averages while carried
work adds up, and the outer gain would over-drive it. What is scaled away is not lost: under
`receipt = "keep"` the learner holds on to it and offers it again.
"""

from __future__ import annotations

from atoll.core.effects import Part
from atoll.core.ids import Cut
from atoll.core.settings import ProtocolSettings


def part_of(cut: Cut, version: int, settings: ProtocolSettings) -> Part:
    """The contribution that a cut makes to the merge that follows `version`."""
    assert cut.steps > 0 and cut.tokens > 0
    tokens = cut.tokens * _shrink(cut, settings)
    pace = cut.tokens / cut.steps
    weight = {"quality": tokens * pace, "tokens": tokens, "uniform": 1.0}[settings.weighting]
    return Part(cut, weight, scale_of(cut, version, settings))


def scale_of(cut: Cut, version: int, settings: ProtocolSettings) -> float:
    """By how much a displacement is scaled in the merge that follows `version`."""
    shrink = _shrink(cut, settings)
    return shrink / (1 + version - cut.base) if settings.scale_stale else shrink


def _shrink(cut: Cut, settings: ProtocolSettings) -> float:
    return min(1.0, settings.H / cut.steps)
