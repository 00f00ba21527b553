"""Storms on eight learners: of kills alone, and of all else. What does a kill cost?

125 faults per hour for half an hour, each, beside a run without faults: the three at the same time,
so that they have the same machine. With kills of learners alone, goodput should be within
a point of `1 - rate * (restart + lost) / M`, times what it is without faults: `restart` is the
measured time from a kill to the first step of the next life, `lost` the work that died.

    python benchmarks/storm_8.py [--minutes 30] [--dir FOLDER]
"""

from __future__ import annotations

import sys

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
    expected = kills.kills.goodput_from_costs * without.goodput
    off = kills.goodput - expected
    report = {
        "expected_goodput": round(expected, 4),
        "off_by": round(off, 4),
        "within_a_point": abs(off) <= WITHIN,
        "good": storms.good,
        "busy_cores": storms.busy,
        **{name: figures(each) for name, each in reports.items()},
    }
    write("storm_8", report)
    print(f"kills: goodput {kills.goodput:.2%}, expected {expected:.2%}, off by {off:+.2%}")
    print(f"other faults: goodput {rest.goodput:.2%}; without faults {without.goodput:.2%}")
    return 0 if all(storms.good.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
