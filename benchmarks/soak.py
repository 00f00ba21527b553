"""A soak: over a thousand short faults in an hour, more than fifty of them kills of the syncer.

Nothing that a learner had seen may be lost, the ledger has to balance, the tapes have to verify,
every fault has to heal, and nothing may grow: processes, descriptors, threads, memory, files of
the syncer's state. Linux only.

    python benchmarks/soak.py [--minutes 60] [--dir FOLDER]
"""

from __future__ import annotations

import sys

from _growth import Growth
from _storm import Storms, figures, options, plan_of, write

from atoll.chaos.campaign import Campaign
from atoll.chaos.storm import faults_of
from atoll.cli.chaos import run_campaign

KILLS_SYNCER = ("kill_syncer", "torn_log", "torn_snapshot")


def main() -> int:
    asked = options(__doc__ or "", 60.0)
    plan, run = plan_of("soak.toml", asked.minutes)
    names = [f"island-{number}" for number in range(run.local.learners)]
    growth, storms = Growth(), Storms(asked)
    folder = storms.folder / "soak"
    campaign = Campaign(folder, run, faults_of(plan, names), plan.minutes, growth.look)
    try:
        report = run_campaign(campaign, plan.seed)
        if not asked.no_picture:
            storms.picture("soak", "soak.png")
    finally:
        storms.close()
    kills = [report.kinds[kind].faults for kind in KILLS_SYNCER if kind in report.kinds]
    grown = growth.report()
    result = {
        "faults": report.faults,
        "kills_of_syncer": sum(kills),
        "good": report.is_good,
        "growth": grown,
        "soak": figures(report),
    }
    write("soak", result)
    print(f"{report.faults} faults, {sum(kills)} kills of the syncer, {report.healed} healed")
    print(f"ledger balanced: {report.ledger_balanced}, tapes verified: {report.verified}")
    for role, used in grown["roles"].items():
        words = [
            f"{name} {each['first_quarter']:g} -> {each['last_quarter']:g}"
            for name, each in used.items()
        ]
        print(f"{role}: {', '.join(words)}")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
