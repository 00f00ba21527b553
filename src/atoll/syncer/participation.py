"""Whose work the newest versions hold, and the sentence to say when it is not everybody's.

A run whose learners train on while only one of them is merged looks healthy from each island. It
shows here, in what was merged, whatever the cause. Reads only, and keeps nothing between two looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.core.membership import LIVE, Member
from atoll.core.shard_state import Fragment

NEW_PERIODS = 2
"""A learner is due in the newest versions after so many periods of H steps."""


def merged_in(fragments: Sequence[Fragment]) -> dict[str, int]:
    """For each learner the number of fragments whose newest version holds its work."""
    found: dict[str, int] = {}
    for fragment in fragments:
        for mark in fragment.marks.values():
            if mark.version == fragment.version:
                found[mark.learner] = found.get(mark.learner, 0) + 1
    return dict(sorted(found.items()))


def degraded(members: Mapping[str, Member], fragments: Sequence[Fragment], H: int) -> str:
    """Who is left out, as a sentence; empty while everybody who is due is merged.

    Nobody is due before every fragment was merged, nor a live learner in its first steps.
    """
    if not fragments or min(fragment.version for fragment in fragments) < 1:
        return ""
    merged = merged_in(fragments)
    out = [name for name in sorted(members) if name not in merged]
    idle = [name for name in out if _is_due(members[name], H)]
    if not idle:
        return ""
    if len(merged) == 1:
        others = ", ".join(f"{name} ({members[name].state})" for name in idle)
        return f"merging only {next(iter(merged))}'s work, nothing of {others}"
    left_out = [name for name in idle if members[name].state == LIVE]
    if not left_out:
        return ""
    verb = "is" if len(left_out) == 1 else "are"
    return f"{', '.join(left_out)} {verb} live, and in the newest version of no fragment"


def _is_due(member: Member, H: int) -> bool:
    return member.state != LIVE or member.step >= NEW_PERIODS * H
