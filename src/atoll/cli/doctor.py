"""`atoll doctor`: is this machine ready? Looks and measures, changes nothing, sends nothing.

Every finding is something seen on this machine just now. What cannot be seen says so.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atoll.cli.output import page, print_json

OLDEST_TORCH = (2, 7)
LITTLE_MEMORY_BYTES = 2_000_000_000
LITTLE_DISK_BYTES = 5_000_000_000
CGROUP = Path("/sys/fs/cgroup")
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")

EXTRAS = {
    "datasets": "hf",
    "transformers": "hf",
    "pyarrow": "parquet",
    "matplotlib": "plots",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `note` says what follows from it, and the fix where there is one."""

    name: str
    status: Literal["ok", "warn", "fail"]
    value: str
    note: str = ""


def doctor(
    directory: Annotated[
        Path, typer.Option(help="Where runs will keep their state; its disk is looked at.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say whether this machine is ready to train, merge and talk to the others.

    Exit code 0 when nothing failed (warnings may stand), else 1.
    """
    findings = examine(directory)
    is_ready = all(each.status != "fail" for each in findings)
    if as_json:
        rows = [asdict(each) for each in findings]
        print_json({"command": "doctor", "ok": is_ready, "findings": rows})
    else:
        show(findings, page())
    if not is_ready:
        raise typer.Exit(1)


def examine(directory: Path) -> list[Finding]:
    """Look at everything, in the order in which it is shown."""
    return [
        examine_python(),
        examine_torch(),
        examine_processors(),
        examine_memory(read_meminfo(), read_number(CGROUP / "memory.max")),
        examine_disk(directory),
        examine_compiler(os.environ),
        examine_congestion_control(),
        examine_extras(),
    ]


def show(findings: list[Finding], console: Console) -> None:
    """The findings for people, and one sentence of summary."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in findings:
        status = f"[{_COLOURS[each.status]}]{each.status}[/]"
        table.add_row(status, each.name, escape("\n".join(filter(None, [each.value, each.note]))))
    console.print(table)
    failed = [each.name for each in findings if each.status == "fail"]
    warned = [each.name for each in findings if each.status == "warn"]
    if failed:
        console.print(f"Not ready: {', '.join(failed)}.")
    elif warned:
        console.print(f"Ready, with less than the best: {', '.join(warned)}.")
    else:
        console.print("Ready.")


def examine_python() -> Finding:
    """The interpreter; an older one could not have installed us."""
    version = f"{platform.python_version()} on {sys.platform} {platform.machine()}"
    return Finding("python", "ok", version)


def examine_torch() -> Finding:
    """The version of torch, and the accelerators that it sees."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return Finding(
            "torch", "fail", f"cannot be imported: {error}", "install torch 2.7 or newer"
        )
    version = str(torch.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
        return Finding("torch", "fail", version, "too old: install torch 2.7 or newer")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("torch", "ok", f"{version}, {', '.join(names)}")
    return Finding("torch", "ok", f"{version}, no accelerator", "training runs on the processor")


def examine_processors() -> Finding:
    """Cores that this process may use: its affinity, and the container's quota."""
    num_cores = float(usable_cores())
    quota = cpu_quota()
    value = f"{num_cores:g} usable"
    if quota is not None and quota < num_cores:
        num_cores = quota
        value += f", held to {quota:g} by the container"
    if num_cores < 2:
        note = "training, its ferry and a local syncer share one core: expect slow steps"
        return Finding("processors", "warn", value, note)
    return Finding("processors", "ok", value)


def usable_cores() -> int:
    """Cores that the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """The container's quota in cores; None where there is none to be seen."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def examine_memory(meminfo: Mapping[str, int], limit_bytes: int | None) -> Finding:
    """Memory that could be had now, and the container's limit."""
    available_bytes, total_bytes = meminfo.get("MemAvailable"), meminfo.get("MemTotal")
    if available_bytes is None or total_bytes is None:
        return Finding("memory", "ok", "cannot be seen on this system")
    value = f"{gigabytes(available_bytes)} available of {gigabytes(total_bytes)}"
    if limit_bytes is not None and limit_bytes < total_bytes:
        value += f", held to {gigabytes(limit_bytes)} by the container"
        available_bytes = min(available_bytes, limit_bytes)
    if available_bytes < LITTLE_MEMORY_BYTES:
        note = "a learner keeps one fp32 copy of the model beside training, a syncer three"
        return Finding("memory", "warn", value, note)
    return Finding("memory", "ok", value)


def read_meminfo() -> dict[str, int]:
    """The kernel's table of memory, in bytes; empty where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    matches = (re.match(r"(\w+):\s+(\d+) kB", line) for line in lines)
    return {found[1]: int(found[2]) * 1024 for found in matches if found}


def read_number(path: Path) -> int | None:
    """The number in a file; None where there is no file or another word in it."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def examine_disk(directory: Path) -> Finding:
    """Free space where state will be kept, and whether it can be written."""
    nearest = next(
        each for each in [directory.absolute(), *directory.absolute().parents] if each.exists()
    )
    free_bytes = shutil.disk_usage(nearest).free
    value = f"{gigabytes(free_bytes)} free at {nearest}"
    if not os.access(nearest, os.W_OK):
        return Finding("disk", "fail", value, "cannot be written: choose another --directory")
    if free_bytes < LITTLE_DISK_BYTES:
        note = "a syncer's log grows by 2 bytes per parameter every H steps, beside its snapshots"
        return Finding("disk", "warn", value, note)
    return Finding("disk", "ok", value)


def examine_extras() -> Finding:
    """Optional packages that are here, and what brings those that are not."""
    there, missing = [], []
    for name, extra in EXTRAS.items():
        try:
            there.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            missing.append(f"{name} (pip install 'atoll[{extra}]')")
    note = f"not here, and needed only for what they do: {', '.join(missing)}" if missing else ""
    return Finding("extras", "ok", ", ".join(there) or "none", note)


def examine_compiler(environment: Mapping[str, str]) -> Finding:
    """The C++ compiler that torch.compile would use for merges on the processor."""
    names = [environment.get("CXX", ""), "g++", "clang++", "c++"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        note = "merges run uncompiled, at about a third of the speed; install g++ or clang++"
        return Finding("compiler", "warn", "none found", note)
    return Finding("compiler", "ok", found)


def examine_congestion_control() -> Finding:
    """Whether a socket of ours may ask for BBR, found out by asking."""
    name = "bbr"
    if not hasattr(socket, "TCP_CONGESTION"):
        return Finding(
            name, "warn", "this system lets no socket choose", "lossy links will be slow"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError as error:
            return Finding(name, "warn", refusal(error), bbr_fix())
    return Finding(name, "ok", "sockets may ask for it")


def refusal(error: OSError) -> str:
    """Why the kernel said no, and what it has instead."""
    try:
        available = CONGESTION_CONTROLS.read_text(encoding="ascii").strip()
    except OSError:
        available = "unknown"
    return f"refused ({error.strerror}); the kernel has: {available}"


def bbr_fix() -> str:
    """What to do about it, and what happens otherwise."""
    return (
        "matters on lossy links only; as root: modprobe tcp_bbr && "
        "sysctl -w net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'"
    )


def gigabytes(num_bytes: int) -> str:
    """Bytes for people."""
    return f"{num_bytes / 1e9:.1f} GB"
