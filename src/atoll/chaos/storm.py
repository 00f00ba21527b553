"""The faults of a storm, drawn before it begins: the same seed, the same storm.

As many faults as the rate gives, at times drawn evenly; kinds by their shares, targets among the
learners that have had their rest. Must never look at a running process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from atoll.chaos.kinds import KINDS, SYNCER, Kind
from atoll.chaos.plan import Fault, Plan, StormSettings
from atoll.core.settings import SettingsError


def faults_of(plan: Plan, learners: Sequence[str]) -> list[Fault]:
    """All faults of a plan, in order of time."""
    for fault in plan.fault:
        if fault.who not in (SYNCER, *learners):
            raise SettingsError(
                f"fault '{fault.kind}' is for {fault.who}, and there is no such learner: "
                f"name one from {learners[0]} to {learners[-1]}"
            )
    drawn = []
    if plan.storm is not None:
        _check_spares(plan.storm, learners)
        drawn = draw(plan.storm, plan, learners)
    return sorted([*plan.fault, *drawn], key=lambda each: (each.at_s, each.kind, each.who))


def _check_spares(storm: StormSettings, learners: Sequence[str]) -> None:
    for name in storm.spares:
        if name not in learners:
            raise SettingsError(
                f"[storm] spares '{name}', and there is no such learner: "
                f"name one from {learners[0]} to {learners[-1]}"
            )
    if storm.shares.get("kill") and set(learners) <= set(storm.spares):
        raise SettingsError(
            "[storm] spares every learner, and kills some: take one out, or set kill = 0 in "
            "[storm.mix]"
        )


def draw(storm: StormSettings, plan: Plan, learners: Sequence[str]) -> list[Fault]:
    """The storm over the whole plan; every fault is over when the plan is."""
    dice, length_s = random.Random(plan.seed), 60 * plan.minutes
    num_faults = max(1, round(storm.faults_per_hour * plan.minutes / 60))
    times = sorted(dice.uniform(0, length_s) for _ in range(num_faults))
    shares = storm.shares
    free_s = dict.fromkeys([SYNCER, *learners], 0.0)
    faults = []
    for at_s in times:
        kind = KINDS[dice.choices(list(shares), list(shares.values()))[0]]
        lasts_s = storm.for_scale * dice.uniform(*kind.for_s)
        for_s = min(round(lasts_s, 1), length_s)
        spares = storm.spares if kind.group == "kill" else ()
        who = _target(kind, {n: s for n, s in free_s.items() if n not in spares}, at_s, dice)
        at_s = min(max(at_s, free_s[who]), length_s - for_s)
        free_s[who] = at_s + for_s + storm.rest_s
        faults.append(Fault(round(at_s, 1), kind.name, who, for_s))
    return faults


def _target(kind: Kind, free_s: dict[str, float], at_s: float, dice: random.Random) -> str:
    """Somebody who had rest; where nobody had, whoever has it first."""
    if kind.aim == SYNCER:
        return SYNCER
    learners = [name for name in free_s if name != SYNCER]
    rested = [name for name in learners if free_s[name] <= at_s]
    return dice.choice(rested) if rested else min(learners, key=lambda name: free_s[name])
