"""Storms on eight learners: of kills alone, and of all else. What does a kill cost?

125 faults per hour for half an hour, each, beside a run without faults: the three at the same time,
so that they have the same machine. With kills of learners alone, goodput should be within
a point of `1 - rate * (restart + lost) / M`, times what it is without faults: `restart` is the
measured time from a kill to the first step of the next life, `lost` the work that died. Printed
beside is how far what was lost, one less goodput, is from what the formula says, as a share of it;
and the same with the paced time of a step in place of the median one. All cores together have to
stay below 60 % busy, or the machine is what is measured. In the storm of kills the syncer lives
through it all while learners die and join, and in the run without faults all do: no process may
grow there beyond the limits in `_growth.py`, which are part of the exit code.

    python benchmarks/storm_8.py [--minutes 30] [--dir FOLDER]
"""

from __future__ import annotations

import sys

from _growth import is_kept
from _growth import show as show_growth
from _storm import WITHOUT, Storms, figures, only, options, plan_of, write

from atoll.chaos.kinds import KINDS

WITHIN = 0.01


def main() -> int:
    asked = options(__doc__ or "", 30.0)
    plan, run = plan_of("storm-8.toml", asked.minutes)
    others = {name: kind.share for name, kind in KINDS.items() if name != "kill"}
    storms = Storms(asked)
    try:
        reports = storms.run_at_once(
            {
                WITHOUT: plan,
                "kills": only(plan, {"kill": 1.0}),
                "other_faults": only(plan, others),
            },
            run,
        )
        if not asked.no_picture:
            storms.picture("kills", "storm-8-kills.png")
            storms.picture("other_faults", "storm-8-others.png")
    finally:
        storms.close()
    without, kills, rest = reports.values()
    assert kills.kills is not None, "a storm of kills has kills"
    left = kills.kills.goodput_from_costs
    median = beside_formula(kills.goodput, left * without.goodput)
    at_pace = beside_formula(kills.goodput_at_pace, left * without.goodput_at_pace)
    aims = {
        "within_a_point": abs(median["off_by"]) <= WITHIN,
        "machine_at_ease": storms.at_ease,
        "all_healed_and_verified": all(storms.good.values()),
        "nothing_grew": all(is_kept(each) for each in storms.growth.values()),
    }
    report = {
        "aims": aims,
        **median,
        "at_pace": at_pace,
        "good": storms.good,
        "busy_cores": storms.busy,
        "growth": storms.growth,
        **{name: figures(each) for name, each in reports.items()},
    }
    write("storm_8", report)
    for name, is_met in aims.items():
        print(f"{name}: {'met' if is_met else 'NOT MET'}")
    show("kills", median)
    show("kills, at the set pace", at_pace)
    for name, each in (("other faults", rest), ("without faults", without)):
        print(f"{name}: goodput {each.goodput:.2%} (at the set pace {each.goodput_at_pace:.2%})")
    for name, each in reports.items():
        print(f"{name}: cores {storms.busy[name]:.0%} busy", *each.shortcomings, sep="; ")
        show_growth(storms.growth[name])
    return 0 if aims["all_healed_and_verified"] and aims["nothing_grew"] else 1


def beside_formula(goodput: float, expected: float) -> dict[str, float]:
    """Off by how much, in goodput and as a share of what was to be lost."""
    lost, expected_lost = 1 - goodput, 1 - expected
    return {
        "goodput": goodput,
        "expected_goodput": round(expected, 4),
        "off_by": round(goodput - expected, 4),
        "lost_off_by_share": round((lost - expected_lost) / expected_lost, 3),
    }


def show(name: str, row: dict[str, float]) -> None:
    print(
        f"{name}: goodput {row['goodput']:.2%}, expected {row['expected_goodput']:.2%}, "
        f"off by {row['off_by']:+.2%}; lost {1 - row['goodput']:.2%} instead of "
        f"{1 - row['expected_goodput']:.2%}, {row['lost_off_by_share']:+.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
