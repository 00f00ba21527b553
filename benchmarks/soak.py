"""A soak: over a thousand short faults in an hour, more than fifty of them kills of the syncer.

Nothing that a learner had seen may be lost, the ledger has to balance, the tapes have to verify,
every fault has to be done and heal, and nothing may grow: processes, descriptors, threads, memory,
files of the syncer's state. One learner is never killed, and with the processes beside it lives
through the whole run: what leaks would show there. `_growth.py` has the limits, which are part of
the exit code. Linux only.

    python benchmarks/soak.py [--minutes 60] [--dir FOLDER]
"""

from __future__ import annotations

import sys

from _growth import is_kept, show
from _storm import Storms, figures, options, plan_of, write

NAME = "soak"
KILLS_SYNCER = ("kill_syncer", "torn_log", "torn_snapshot")


def main() -> int:
    asked = options(__doc__ or "", 60.0)
    plan, run = plan_of("soak.toml", asked.minutes)
    storms = Storms(asked)
    try:
        report = storms.run(NAME, plan, run)
        if not asked.no_picture:
            storms.picture(NAME, "soak.png")
    finally:
        storms.close()
    kills = [report.kinds[kind].faults for kind in KILLS_SYNCER if kind in report.kinds]
    grown = storms.growth[NAME]
    aims = {
        "all_healed_and_verified": report.is_good,
        "nothing_grew": is_kept(grown),
        "machine_at_ease": storms.at_ease,
    }
    result = {
        "aims": aims,
        "faults": report.faults,
        "kills_of_syncer": sum(kills),
        "busy_cores": storms.busy[NAME],
        "growth": grown,
        NAME: figures(report),
    }
    write("soak", result)
    for name, is_met in aims.items():
        print(f"{name}: {'met' if is_met else 'NOT MET'}")
    print(f"{report.faults} faults, {sum(kills)} kills of the syncer, {report.healed} healed")
    print(f"cores {storms.busy[NAME]:.0%} busy", *report.shortcomings, sep="; ")
    print(f"ledger balanced: {report.ledger_balanced}, tapes verified: {report.verified}")
    show(grown)
    return 0 if report.is_good and is_kept(grown) else 1


if __name__ == "__main__":
    sys.exit(main())
