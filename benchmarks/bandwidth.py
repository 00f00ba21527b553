"""Bandwidth of data-parallel, DiLoCo, streaming and decoupled: formulas beside counted bytes.

The two published jobs (5 billion parameters, one second a step: two data centres in bf16, eight in
int4), and what a decoupled run does on lines from half of its average need to twice it.
Everything is in virtual time; the seconds it took are in the JSON. Writes the chart of the docs.

    python benchmarks/bandwidth.py
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from _common import machine, write_results

from atoll.cli.simulate.bandwidth import describe, published_document
from atoll.cli.simulate.bandwidth_chart import draw
from atoll.simulator.bandwidth import average_bytes_s, gigabits
from atoll.simulator.bandwidth_published import PAIRS
from atoll.simulator.bandwidth_wire import thin_line

CHART = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "bandwidth.png"
SHARES = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)


def main() -> None:
    before = machine()
    began_s = time.perf_counter()
    jobs = [describe(pair.job, count_bytes=True) for pair in PAIRS]
    job = PAIRS[0].job
    average = average_bytes_s(job, "decoupled-apart")
    thin = [asdict(thin_line(job, share * average)) for share in SHARES]
    jobs[0]["thin_line"] = [
        {**row, "line": round(gigabits(row["rate_bytes_s"]), 4)} for row in thin
    ]
    report = {"machine": before, "jobs": jobs, "published": published_document()}
    report["seconds"] = round(time.perf_counter() - began_s, 1)
    for row in report["published"]:
        if row["chosen"]:
            print(row)
    for row in jobs[0]["thin_line"]:
        print({name: round(value, 3) for name, value in row.items()})
    CHART.parent.mkdir(parents=True, exist_ok=True)
    draw(jobs[0], CHART)
    write_results("bandwidth", "virtual time", report)


if __name__ == "__main__":
    main()
