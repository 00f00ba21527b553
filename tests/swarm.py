"""A swarm of seeds, each a whole run with faults: `python tests/swarm.py --seeds 1000`.

Prints failing seeds as they come and a summary; exit code 1 when any failed. A failing seed is
enough to see the run again (`--first SEED --seeds 1`), and then belongs into
`tests/simulator/test_swarm.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from atoll.simulator.swarm import Outcome, run_seed


def main() -> int:
    """Run the seeds asked for, on all cores asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="a summary for machines")
    asked = parser.parse_args()
    began_s = time.monotonic()
    failures: list[Outcome] = []
    totals = {"runs": 0, "merges": 0, "events": 0}
    faults: dict[str, int] = {}
    with ProcessPoolExecutor(asked.jobs) as pool:
        seeds = range(asked.first, asked.first + asked.seeds)
        for outcome in pool.map(run_seed, seeds, chunksize=4):
            totals["runs"] += 1
            totals["merges"] += outcome.merges
            totals["events"] += outcome.events
            for kind, count in outcome.faults.items():
                faults[kind] = faults.get(kind, 0) + count
            if outcome.failure:
                failures.append(outcome)
                print(f"seed {outcome.seed} failed: {outcome.failure}", file=sys.stderr)
            if not asked.json and totals["runs"] % 50 == 0:
                print(f"{totals['runs']} runs, {len(failures)} failed", flush=True)
    summary = totals | {
        "failed": len(failures),
        "faults": faults,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    print(json.dumps(summary))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
