"""A kill beside torchft: how long the survivor does not step, and until the killed one is back.

Two replicas, the same model, pace and H, the same machine, one run after the other: torchft's
DiLoCo over Gloo with its lighthouse and a torchrun for each replica, which restarts it; and
`atoll train`'s own processes, which start anew as torchrun's do (`[local] spare = false`), and once
more with a spare process that has imported everything already, as is usual for Atoll. One replica
is killed with SIGKILL. It is back when the whole model holds work of its next life: torchft
synchronises all of it at once, Atoll has merged that work into every fragment by then. torchft goes
into an environment of its own, beside this one and with this one's torch:

    python benchmarks/beside_torchft.py [--kills 5] [--venv FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from _common import machine, processor, write_results
from _growth import children_of
from _storm import STORMS

from atoll.chaos.campaign import Campaign
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.chaos.tail import TapeTail
from atoll.core.effects import Merge
from atoll.core.events import Boundary, Merged
from atoll.runfile.settings import read_run_file, write_resolved
from atoll.tape.facts import LifeKey
from atoll.tape.read import Entry, read_tapes

PACKAGE = "torchft-nightly"
RUN_FILE = STORMS / "micro-2.toml"
REPLICA = Path(__file__).with_name("_torchft_replica.py")
SETTLE_S = 30.0
BETWEEN_S = 40.0
LIMIT_S = 300.0


@dataclass(frozen=True)
class Kill:
    """What one kill cost, in seconds."""

    survivor_stood_still_s: float
    """The longest time between two steps of the survivor, beyond what a step takes."""
    back_after_s: float
    """From the kill until the whole model held work of the killed one's next life."""
    longest_before_s: float
    """As the first, in the half minute before the kill: what the machine alone makes of it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--venv", type=Path, help="where torchft is, or is to be installed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-torchft-") as folder:
        home = Path(folder)
        python = install(asked.venv or home / "venv")
        kills = {
            "torchft": of_torchft(python, home, asked.kills),
            "atoll": of_atoll(home / "atoll", asked.kills, spare=False),
            "atoll_with_spare": of_atoll(home / "spare", asked.kills, spare=True),
        }
    run = read_run_file(RUN_FILE)
    settings = {"H": run.syncer.protocol.H, "min_step_s": run.local.min_step_s, "replicas": 2}
    report = {
        "machine": machine(),
        "torch": version("torch"),
        "torchft": version_of(python),
        "settings": settings,
        **{f"{name}_kills": [vars(kill) for kill in of_side] for name, of_side in kills.items()},
    }
    write_results("beside_torchft", processor().split("@")[0], report)
    for name, of_side in kills.items():
        print(
            f"{name}: survivor stood still {spread(k.survivor_stood_still_s for k in of_side)}, "
            f"before the kill {spread(k.longest_before_s for k in of_side)}, "
            f"killed one back after {spread(k.back_after_s for k in of_side)}"
        )
    return 0


def spread(seconds: Iterable[float]) -> str:
    """Median and range."""
    known = sorted(seconds)
    return f"{statistics.median(known):.1f} s ({known[0]:.1f} to {known[-1]:.1f})"


# ---------------------------------------------------------------- torchft


def install(venv: Path) -> Path:
    """An environment with torchft that sees this one's torch; returns its Python."""
    python = venv / "bin" / "python"
    if not (venv / "bin" / "torchft_lighthouse").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        there, here = (_said(each, ask) for each in (python, Path(sys.executable)))
        source = str(Path(__file__).resolve().parents[1] / "src")
        Path(there, "atoll-environment.pth").write_text(f"{here}\n{source}\n")
        pins = venv / "constraints.txt"
        pins.write_text(f"torch=={version('torch').partition('+')[0]}\n")
        command = [str(python), "-m", "pip", "install", "-q", PACKAGE, "-c", str(pins)]
        subprocess.run(command, check=True)
    return python


def version_of(python: Path) -> str:
    return _said(python, f"from importlib.metadata import version; print(version('{PACKAGE}'))")


def _said(python: Path, code: str) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def of_torchft(python: Path, home: Path, num_kills: int) -> list[Kill]:
    """Replica 1 is killed again and again; replica 0 survives."""
    resolved = home / "run.toml"
    write_resolved(resolved, read_run_file(RUN_FILE))
    port = free_port()
    lighthouse = [str(python.with_name("torchft_lighthouse")), "--min_replicas", "1"]
    lighthouse += ["--bind", f"127.0.0.1:{port}", "--join_timeout_ms", "10000"]
    environment = {**os.environ, "TORCHFT_LIGHTHOUSE": f"http://127.0.0.1:{port}"}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    lines = [home / f"replica-{number}.jsonl" for number in range(2)]
    with started(lighthouse, home / "lighthouse.log", environment):
        commands = [torchrun(python, resolved, number, lines[number]) for number in range(2)]
        logs = [home / f"replica-{number}.log" for number in range(2)]
        with (
            started(commands[0], logs[0], environment),
            started(commands[1], logs[1], environment) as runner,
        ):
            wait_until(lambda: together_since(lines[0], 0.0) is not None, logs[0])
            return [kill_of_torchft(runner, lines, logs[0]) for _ in range(num_kills)]


def kill_of_torchft(runner: subprocess.Popen[bytes], lines: list[Path], log: Path) -> Kill:
    time.sleep(SETTLE_S)
    worker = children_of(runner.pid)[0]
    killed_s = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: together_since(lines[1], killed_s) is not None, log)
    back_s = together_since(lines[1], killed_s)
    assert back_s is not None, "it was waited for"
    time.sleep(SETTLE_S)
    ends = [each["ended_s"] for each in records(lines[0])]
    return kill_of(ends, (killed_s, back_s), round(back_s - killed_s, 2))


def torchrun(python: Path, run_file: Path, number: int, lines: Path) -> list[str]:
    command = [str(python), "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "1"]
    command += ["--master-port", str(free_port()), "--max-restarts", "100"]
    return [*command, str(REPLICA), str(run_file), str(number), str(lines)]


def together_since(lines: Path, since_s: float) -> float | None:
    """When both replicas had synchronised, in a step that this replica began after `since_s`."""
    last = None
    for each in records(lines):
        fresh = each["began_s"] > since_s
        if fresh and last is not None and each["synced"] > last and each["replicas"] == 2:
            return float(each["ended_s"])
        last = each["synced"] if fresh else None
    return None


def kill_of(ends: list[float], window: tuple[float, float], back_after_s: float) -> Kill:
    """From when the survivor's steps ended; the window runs from the kill to the return."""
    from_s, to_s = window
    usual_s = statistics.median(b - a for a, b in pairwise(ends))
    during = [b - a for a, b in pairwise(ends) if b >= from_s and a <= to_s]
    before = [b - a for a, b in pairwise(ends) if from_s - SETTLE_S <= a and b < from_s]
    still_s, before_s = max(during) - usual_s, max(before, default=usual_s) - usual_s
    return Kill(round(still_s, 2), back_after_s, round(before_s, 2))


def records(lines: Path) -> list[dict[str, Any]]:
    if not lines.exists():
        return []
    found = []
    for line in lines.read_text().splitlines():
        with suppress(ValueError):  # the last line of a replica that was killed
            found.append(json.loads(line))
    return found


# ---------------------------------------------------------------- Atoll


def of_atoll(folder: Path, num_kills: int, spare: bool) -> list[Kill]:
    """The same kills; the time between them is the same too."""
    run = read_run_file(RUN_FILE)
    run = replace(run, local=replace(run.local, spare=spare))
    faults = [
        Fault(SETTLE_S + n * (SETTLE_S + BETWEEN_S), "kill", "island-1") for n in range(num_kills)
    ]
    minutes = (faults[-1].at_s + SETTLE_S + BETWEEN_S) / 60
    campaign = Campaign(folder, run, faults, minutes)
    for _ in campaign.run():
        pass
    first_merges_s = first_merges_of(campaign)
    ends, clock_s = boundaries_of(campaign, "island-0")
    kills = []
    for struck in campaign.watch.struck:
        back_s = back_of(struck, first_merges_s, run.syncer.protocol.P)
        window = (struck.done_s + clock_s, back_s + clock_s)
        kills.append(kill_of(ends, window, round(back_s - struck.done_s, 2)))
    return kills


def first_merges_of(campaign: Campaign) -> dict[LifeKey, dict[int, float]]:
    """When work of each life was in a fragment for the first time, by fragment."""
    orders: dict[tuple[int, int], Merge] = {}
    found: dict[LifeKey, dict[int, float]] = {}
    for seen in TapeTail(campaign.session.folder.tapes).read():
        event = seen.entry.event
        if isinstance(event, Merged):
            for part in orders.pop((event.fragment, event.version)).parts:
                life = (part.cut.id.learner, part.cut.id.incarnation)
                at_s = campaign.watch.clocks.ours_s(seen)
                found.setdefault(life, {}).setdefault(event.fragment, at_s)
        for effect in seen.entry.effects:
            if isinstance(effect, Merge):
                orders[effect.fragment, effect.version] = effect
    return found


def back_of(struck: Struck, first_merges_s: dict[LifeKey, dict[int, float]], P: int) -> float:
    """When every fragment held work of the life after the kill."""
    later = [life for life in first_merges_s if life[0] == struck.who]
    life = min(life for life in later if life[1] > struck.incarnation)
    assert len(first_merges_s[life]) == P, "its work came into every fragment before the next kill"
    return max(first_merges_s[life].values())


def boundaries_of(campaign: Campaign, learner: str) -> tuple[list[float], float]:
    """When each step of a learner ended, by its own tape, and its clock less the campaign's.

    The clocks are compared where the syncer heard soonest of a step.
    """
    tape = next(each for each in read_tapes(campaign.session.folder.tapes) if each.party == learner)
    items = [item for segment in tape.segments for item in segment.items()]
    steps = {
        item.event.tokens: item.now_s
        for item in items
        if isinstance(item, Entry) and isinstance(item.event, Boundary)
    }
    reports = campaign.watch.work.reports
    life = next(each for each in reports if each[0] == learner)
    apart = [steps[tokens] - at_s for at_s, tokens in reports[life] if tokens in steps]
    return sorted(steps.values()), max(apart)


# ---------------------------------------------------------------- processes


@contextmanager
def started(command: list[str], log: Path, environment: dict[str, str]) -> Any:
    """A process and its children, killed in the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        for pid in [*children_of(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_so: Any, log: Path) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > until_s:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise SystemExit(f"torchft did not get there within {LIMIT_S:.0f} s:\n{tail}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
