"""What benchmarks share: repeats in turn, their spread, the machine's name, and results as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """Seconds of several repeats."""

    min_s: float
    median_s: float
    max_s: float


def spread(times: Sequence[float]) -> Spread:
    return Spread(min(times), median(times), max(times))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(work: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each piece of work, measured A B A B: a shared machine's speed drifts."""
    times: list[list[float]] = [[] for _ in work]
    for _ in range(repeats):
        for kept, each in zip(times, work, strict=True):
            kept.append(seconds(each))
    return times


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What a figure of time has to be read with."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "python": platform.python_version(),
    }


def write_results(benchmark: str, hardware: str, report: Mapping[str, Any]) -> Path:
    """Write a report beside those of other machines; `hardware` becomes part of the name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}-{re.sub(r'[^a-z0-9]+', '-', hardware.lower())}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to benchmarks/results/{path.name}")
    return path
