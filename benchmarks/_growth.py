"""What every process of a campaign uses over time, and whether any of it grows. Linux only."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.chaos.campaign import Campaign

EVERY_S = 5.0
SETTLED_S = 20.0
"""A process is looked at when it has been up for so long: starting is growing."""
RESOURCES = ("rss_mb", "descriptors", "threads")


@dataclass
class Growth:
    """`look` at every look of a campaign; then `report`."""

    samples: dict[str, list[tuple[float, float, dict[str, float]]]] = field(default_factory=dict)
    """By role: time of the run, age of the process, and what it used."""
    processes: list[tuple[float, float]] = field(default_factory=list)
    state_files: list[tuple[float, float]] = field(default_factory=list)
    _first_seen: dict[int, float] = field(default_factory=dict)
    _last_s: float = float("-inf")

    def look(self, campaign: Campaign) -> None:
        now_s = campaign.now_s
        if campaign.begun_s < 0 or now_s < self._last_s + EVERY_S:
            return
        self._last_s = now_s
        for role, pid in _processes(campaign):
            used = usage(pid)
            if used:
                age_s = now_s - self._first_seen.setdefault(pid, now_s)
                self.samples.setdefault(role, []).append((now_s, age_s, used))
        self.processes.append((now_s, float(len(children_of(os.getpid())))))
        state = campaign.session.folder.state
        self.state_files.append((now_s, float(len([1 for p in state.rglob("*") if p.is_file()]))))

    def report(self) -> dict[str, Any]:
        """Slopes per hour. For processes that are restarted, over the run at like ages."""
        roles = {}
        for role, samples in sorted(self.samples.items()):
            settled = [each for each in samples if each[1] >= SETTLED_S] or samples
            roles[role] = {
                name: describe([(at_s, used[name]) for at_s, _, used in settled])
                for name in RESOURCES
            }
        return {
            "roles": roles,
            "processes": describe(self.processes),
            "state_files": describe(self.state_files),
        }


def describe(points: list[tuple[float, float]]) -> dict[str, float]:
    """The first and the last quarter of a series, and its slope."""
    quarter = max(1, len(points) // 4)
    first = statistics.median(value for _, value in points[:quarter])
    last = statistics.median(value for _, value in points[-quarter:])
    return {
        "first_quarter": round(first, 1),
        "last_quarter": round(last, 1),
        "per_hour": round(slope(points) * 3600, 2),
    }


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares, per second."""
    if len({at_s for at_s, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def usage(pid: int) -> dict[str, float]:
    """Nothing where the process has gone."""
    home = Path("/proc") / str(pid)
    try:
        status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
        descriptors = len(list((home / "fd").iterdir()))
        rss_mb, threads = int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"])
    except (OSError, KeyError, ValueError):
        return {}
    return {"rss_mb": rss_mb, "descriptors": float(descriptors), "threads": float(threads)}


def children_of(pid: int) -> list[int]:
    """Processes whose parent it is, the dead that nobody waited for included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def _processes(campaign: Campaign) -> Iterator[tuple[str, int]]:
    local = campaign.session.local
    yield "launcher", os.getpid()
    yield "links", campaign.links.pid
    if local.syncer.is_running:
        yield "syncer", local.syncer.pid
    for child in local.learners.values():
        if child.is_running:
            yield "learner", child.pid
