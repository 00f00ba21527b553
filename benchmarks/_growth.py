"""What every process of a campaign uses over time, and whether any of it grows. Linux only.

Processes that are killed are compared with those that came after them, by role. A leak dies with
its process, though: what counts are the processes that lived more than half of the run, each over
its own life. Must never judge a run that was too short for a slope to mean anything.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.chaos.campaign import Campaign
from atoll.chaos.tear import TORN

EVERY_S = 5.0
SETTLED_S = 20.0
"""A process is looked at when it has been up for so long: starting is growing."""
WARM_S = 60.0
"""As that, for slopes over the life of one process."""
JUDGED_S = 900.0
"""A shorter run is not judged."""
RESOURCES = ("rss_mb", "descriptors", "threads")
MOST_PER_HOUR = {"rss_mb": 20.0, "descriptors": 2.0, "threads": 2.0}
"""Of a process that lived more than half of the run; memory after the first quarter of its life."""
KEEPS_NOTES = "launcher"
"""Here it keeps every step, merge and look in memory until the end, for the figures: its memory is
shown and has no limit."""
MOST_STATE_FILES = 2.0
"""More files of the syncer's state in the last quarter of the run than in the second."""
MOST_PROCESSES_PER_HOUR = 2.0

Points = list[tuple[float, float]]


@dataclass
class Life:
    """One process: when it was looked at, and what it used."""

    role: str
    name: str
    looks: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def lasted_s(self) -> float:
        return self.looks[-1][0] - self.looks[0][0]

    def points(self, resource: str, from_s: float) -> Points:
        """From so many seconds after it was first seen."""
        first_s = self.looks[0][0]
        return [(at_s, used[resource]) for at_s, used in self.looks if at_s >= first_s + from_s]

    def slopes(self) -> dict[str, float]:
        """Per hour, of each resource."""
        result = {}
        for name in RESOURCES:
            from_s = max(WARM_S, self.lasted_s / 4) if name == "rss_mb" else WARM_S
            result[name] = round(slope(self.points(name, from_s)) * 3600, 2)
        return result


@dataclass
class Growth:
    """`look` at every look of a campaign; then `report`."""

    lives: dict[int, Life] = field(default_factory=dict)
    """By process id."""
    processes: Points = field(default_factory=list)
    state_files: Points = field(default_factory=list)
    _last_s: float = float("-inf")

    def look(self, campaign: Campaign) -> None:
        now_s = campaign.now_s
        if campaign.begun_s < 0 or now_s < self._last_s + EVERY_S:
            return
        self._last_s = now_s
        for role, name, pid in _processes(campaign):
            used = usage(pid)
            if used:
                self.lives.setdefault(pid, Life(role, name)).looks.append((now_s, used))
        self.processes.append((now_s, float(len(children_of(os.getpid())))))
        files = campaign.session.folder.state.rglob("*")
        num_files = len([1 for path in files if path.is_file() and path.suffix != TORN])
        self.state_files.append((now_s, float(num_files)))

    @property
    def lasted_s(self) -> float:
        return self.processes[-1][0] - self.processes[0][0] if self.processes else 0.0

    def report(self) -> dict[str, Any]:
        """Slopes per hour, by role over the run and of long lives each for itself; the limits."""
        long = [each for each in self.lives.values() if each.lasted_s > self.lasted_s / 2]
        found: dict[str, Any] = {
            "roles": {role: self._role(role) for role in sorted({*self._roles()})},
            "long_lives": [
                {"name": each.name, "minutes": round(each.lasted_s / 60, 1), **each.slopes()}
                for each in long
            ],
            "processes": describe(self.processes),
            "state_files": describe(self.state_files),
        }
        return {**found, "limits": limits_of(found, self.lasted_s)}

    def _roles(self) -> Iterator[str]:
        for each in self.lives.values():
            yield each.role

    def _role(self, role: str) -> dict[str, Any]:
        """Over the run at like ages, whichever process had the role."""
        lives = [each for each in self.lives.values() if each.role == role]
        from_s = SETTLED_S if any(each.lasted_s >= SETTLED_S for each in lives) else 0.0
        return {
            name: describe(sorted(point for each in lives for point in each.points(name, from_s)))
            for name in RESOURCES
        }


def limits_of(found: dict[str, Any], lasted_s: float) -> dict[str, bool]:
    """Which limits were kept; none for a run that was too short to be judged."""
    if lasted_s < JUDGED_S:
        return {}
    limits = {
        f"{name} of {life['name']} at most {most:g} more per hour": life[name] <= most
        for life in found["long_lives"]
        for name, most in MOST_PER_HOUR.items()
        if (life["name"], name) != (KEEPS_NOTES, "rss_mb")
    }
    files, processes = found["state_files"], found["processes"]
    more = files["last_quarter"] - files["second_quarter"]
    limits[f"files of the state at most {MOST_STATE_FILES:g} more"] = more <= MOST_STATE_FILES
    name = f"processes at most {MOST_PROCESSES_PER_HOUR:g} more per hour"
    limits[name] = processes["per_hour"] <= MOST_PROCESSES_PER_HOUR
    return limits


def is_kept(report: dict[str, Any]) -> bool:
    """Nothing grew beyond its limit."""
    return all(report["limits"].values())


def show(report: dict[str, Any]) -> None:
    for role, used in report["roles"].items():
        words = [
            f"{name} {each['first_quarter']:g} -> {each['last_quarter']:g}"
            for name, each in used.items()
        ]
        print(f"  {role}: {', '.join(words)}")
    for life in report["long_lives"]:
        slopes = ", ".join(f"{name} {life[name]:+g}" for name in RESOURCES)
        print(f"  {life['name']}, {life['minutes']:g} minutes: {slopes} per hour")
    files = report["state_files"]
    print(f"  files of the state {files['second_quarter']:g} -> {files['last_quarter']:g}")
    for name, is_met in report["limits"].items():
        print(f"  {name}: {'met' if is_met else 'NOT MET'}")
    if not report["limits"]:
        print(f"  not judged: shorter than {JUDGED_S / 60:.0f} minutes")


def describe(points: Points) -> dict[str, float]:
    """The first, second and last quarter of a series, and its slope."""
    quarter = max(1, len(points) // 4)
    first = statistics.median(value for _, value in points[:quarter])
    second = statistics.median(value for _, value in points[-3 * quarter :][:quarter])
    last = statistics.median(value for _, value in points[-quarter:])
    return {
        "first_quarter": round(first, 1),
        "second_quarter": round(second, 1),
        "last_quarter": round(last, 1),
        "per_hour": round(slope(points) * 3600, 2),
    }


def slope(points: Points) -> float:
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


def _processes(campaign: Campaign) -> Iterator[tuple[str, str, int]]:
    """Role, name and id."""
    local = campaign.session.local
    yield "launcher", "launcher", os.getpid()
    yield "links", "links", campaign.links.pid
    if local.syncer.is_running:
        yield "syncer", "syncer", local.syncer.pid
    for child in local.learners.values():
        if child.is_running:
            yield "learner", child.name, child.pid
