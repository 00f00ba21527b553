"""How much a contribution counts in a merge, and by how much it is scaled.

weight = tokens * (tokens / steps): quantity times quality, of H steps at most.

Under `unmerged = "carry"` the work of a learner that missed a round comes with a later one. A mean
over those who are in would then count it twice: once as the others' larger share, once when it
comes. So a merge is scaled by the share of the weight that is in it, of all whose work is in it or
still to come (`coverage`), and a displacement over more than H steps comes whole.

Under `drop` what misses a round is lost, and the mean is over those who are in. A displacement over
more than H steps is scaled by H / steps then; what is scaled away stays with the learner where the
receipt is `keep`.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.core.effects import Part
from atoll.core.ids import Cut
from atoll.core.settings import ProtocolSettings


def part_of(cut: Cut, version: int, settings: ProtocolSettings) -> Part:
    """The contribution that a cut makes to the merge that follows `version`."""
    assert cut.steps > 0 and cut.tokens > 0
    steps = min(cut.steps, settings.period_steps(version))
    weight = weight_of(steps, cut.tokens / cut.steps, settings)
    return Part(cut, weight, scale_of(cut, version, settings))


def weight_of(steps: int, tokens_per_step: float, settings: ProtocolSettings) -> float:
    """What so many steps at a pace count for."""
    tokens = steps * tokens_per_step
    weights = {"quality": tokens * tokens_per_step, "tokens": tokens, "uniform": 1.0}
    return weights[settings.weighting]


def covered(parts: list[Part], weight_to_come: float) -> tuple[Part, ...]:
    """The parts, scaled by the share of the weight that is in them."""
    inside = _weight_in(parts)
    share = inside / (inside + weight_to_come)
    return tuple(Part(part.cut, part.weight, part.scale * share) for part in parts)


def weight_left(
    parts: Sequence[Part], kept: Sequence[Part], version: int, settings: ProtocolSettings
) -> float:
    """What is still to come when only some of the parts of a merge are kept."""
    if settings.unmerged != "carry":
        return 0.0
    share = parts[0].scale / scale_of(parts[0].cut, version, settings)
    return _weight_in(parts) / share - _weight_in(kept)


def _weight_in(parts: Sequence[Part]) -> float:
    """The sum, in the order of the parts."""
    weight = 0.0
    for part in parts:
        weight += part.weight
    return weight


def scale_of(cut: Cut, version: int, settings: ProtocolSettings) -> float:
    """By how much a displacement is scaled in the merge that follows `version`."""
    longest = cut.steps if settings.unmerged == "carry" else settings.period_steps(version)
    shrink = min(1.0, longest / cut.steps)
    return shrink / (1 + version - cut.base) if settings.scale_stale else shrink
