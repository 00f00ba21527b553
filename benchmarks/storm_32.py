"""A storm of every kind of fault on 32 learners: 125 faults per hour for half an hour.

Aims: goodput of 98 % or more, participation of 95 % of live or more, every fault healed unaided,
and all cores together less than 60 % busy (or the machine is what is measured). First the same run
without faults. Takes about 9 GB of memory and an hour and a quarter:

    python benchmarks/storm_32.py [--minutes 30] [--dir FOLDER]
"""

from __future__ import annotations

import sys

from _storm import WITHOUT, Storms, figures, options, plan_of, write

GOODPUT, PARTICIPATION = 0.98, 0.95


def main() -> int:
    asked = options(__doc__ or "", 30.0)
    plan, run = plan_of("storm-32.toml", asked.minutes)
    storms = Storms(asked)
    try:
        without = storms.run(WITHOUT, plan, run)
        storm = storms.run("storm", plan, run, without)
        if not asked.no_picture:
            storms.picture("storm", "storm-32.png")
    finally:
        storms.close()
    aims = {
        "goodput": storm.goodput >= GOODPUT,
        "participation": storm.participation >= PARTICIPATION,
        "all_healed_and_verified": storm.is_good,
        "machine_at_ease": storms.at_ease,
    }
    runs = {"storm": figures(storm), WITHOUT: figures(without)}
    write("storm_32", {"aims": aims, "busy_cores": storms.busy, "growth": storms.growth, **runs})
    for name, is_met in aims.items():
        print(f"{name}: {'met' if is_met else 'NOT MET'}")
    print(f"goodput {storm.goodput:.2%} ({without.goodput:.2%} without faults)")
    at_pace, quiet = storm.goodput_at_pace, without.goodput_at_pace
    print(f"goodput at the set pace {at_pace:.2%} ({quiet:.2%} without faults)")
    print(f"participation {storm.participation:.1%} ({without.participation:.1%})")
    for reason in storm.shortcomings:
        print(f"not good: {reason}")
    return 0 if storm.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
