"""Make the virtual environment that every `make` target runs in.

It can be stopped at any time and started again: what is whole is kept, and the stamp that `make`
looks at is written last, after the environment has shown that it works.

The one choice made here is which build of torch to take, because builds differ by gigabytes:

* what is installed stays when its version fits;
* a machine with an NVIDIA accelerator takes what pip takes by itself;
* a machine without one takes the CPU build of the index in use, else the one of PyTorch's own CPU
  index if that answers, else what pip takes by itself, and says how large that is.

`TORCH=cpu`, `TORCH=default` or `TORCH=torch==2.12.1` decide it by hand.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 7)
PROBE_TIMEOUT_S = 5.0
BUILD_TOOL = "setuptools>=77.0.3"

# Prints what a Python can import of torch: nothing when there is none, or when pip was stopped
# while it installed it (pip writes RECORD last).
_INSTALLED_TORCH = """
from importlib.metadata import PackageNotFoundError, distribution
try:
    torch = distribution("torch")
    print(torch.version if torch.read_text("RECORD") else "")
except PackageNotFoundError:
    print("")
"""
_INSTALLED_NAMES = """
from importlib.metadata import distributions
print(*{each.metadata["Name"] for each in distributions()})
"""
_WORKS = "import numpy, torch, atoll.core, atoll.cli; torch.ones(2).sum().item()"


class SetupError(ValueError):
    """Why there is no environment, with the fix."""


@dataclass(frozen=True)
class TorchChoice:
    """What to hand to `pip install --no-deps`, nothing when torch is there already, and why."""

    pip_args: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Machine:
    """What the choice depends on. The two questions cost network, so they are asked when needed."""

    installed: str
    pinned: str
    is_linux: bool
    has_accelerator: bool
    index_has_cpu_build: Callable[[], bool]
    cpu_index_answers: Callable[[], bool]


def choose_torch(wanted: str, machine: Machine) -> TorchChoice:
    """The build of torch that fits, and the sentence that says why."""
    default = (f"torch=={machine.pinned}",)
    if wanted not in ("auto", "cpu", "default"):
        return TorchChoice((wanted,), f"TORCH={wanted} asks for it")
    if wanted == "default":
        return TorchChoice(default, f"TORCH=default asks for pip's own choice, {default_size()}")
    is_cpu_build = machine.installed.endswith("+cpu")
    if version_fits(machine.installed) and (wanted == "auto" or is_cpu_build):
        return TorchChoice((), f"{machine.installed} is there and fits")
    if wanted == "auto" and machine.has_accelerator:
        return TorchChoice(default, f"for the accelerator here, pip's own choice, {default_size()}")
    if not machine.is_linux:
        return TorchChoice(default, f"pip's own choice is a CPU build here, {default_size()}")
    cpu_build = f"torch=={machine.pinned}+cpu"
    if machine.index_has_cpu_build():
        return TorchChoice((cpu_build,), "the index in use offers a CPU build, about 0.2 GB")
    if machine.cpu_index_answers():
        reason = f"no accelerator here: the CPU build of {CPU_INDEX}, about 0.2 GB"
        return TorchChoice((cpu_build, "--index-url", CPU_INDEX), reason)
    if wanted == "cpu":
        raise SetupError(
            f"TORCH=cpu: neither the index in use nor {CPU_INDEX} offers {cpu_build}; "
            "use TORCH=default, or TORCH=<path of a wheel>"
        )
    return TorchChoice(default, f"no CPU build within reach: pip's own choice, {default_size()}")


def version_fits(version: str) -> bool:
    """Whether this version of torch is in the range of pyproject.toml."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_TORCH


def default_size() -> str:
    """Roughly what pip's own choice of torch downloads on this system."""
    if platform.system() == "Linux":
        return "about 2.7 GB to download with its CUDA libraries, twice that on disk"
    return "about 0.1 to 0.2 GB to download"


def pins_for(constraints: str, torch_version: str, site_names: frozenset[str]) -> str:
    """The constraints with torch as it is installed, and without what the site brings along."""
    kept = []
    for line in constraints.splitlines():
        name = normal_name(line.partition("==")[0])
        if not name or name.startswith("#") or name == "torch" or name in site_names:
            continue
        kept.append(line)
    return "\n".join([*kept, f"torch=={torch_version}", ""])


def normal_name(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def pinned_version(constraints: str, name: str) -> str:
    """The version that constraints.txt holds for a distribution."""
    for line in constraints.splitlines():
        left, _, version = line.partition("==")
        if normal_name(left) == name:
            return version.strip()
    raise SetupError(f"constraints.txt pins no {name}: add a line {name}==<version>")


class Environment:
    """A virtual environment's folder and what is done in it."""

    def __init__(self, folder: Path, flags: list[str]) -> None:
        self.folder = folder
        self.flags = flags
        self.python = folder / "bin" / "python"

    @property
    def uses_site(self) -> bool:
        """Whether packages of the surrounding Python are visible inside."""
        return "--system-site-packages" in self.flags

    def ask(self, program: str) -> str:
        """What a program printed in this environment, empty when it failed or has no Python."""
        if not self.python.exists():
            return ""
        command = [str(self.python), "-I", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def create(self) -> None:
        """Create the environment, or keep the one that is there when it is sound."""
        here = f"{sys.version_info.major}.{sys.version_info.minor} {self.uses_site}"
        found = self.ask(
            "import pip, sys; from pathlib import Path\n"
            "settings = Path(sys.prefix, 'pyvenv.cfg').read_text().lower().replace(' ', '')\n"
            "print('%d.%d' % sys.version_info[:2], 'include-system-site-packages=true' in settings)"
        )
        if found == here:
            say(f"keeping {self.folder} (Python {platform.python_version()})")
            return
        say(f"creating {self.folder} with Python {platform.python_version()}")
        command = [sys.executable, "-m", "venv", "--clear", *self.flags, str(self.folder)]
        if subprocess.run(command, check=False).returncode != 0:
            raise SetupError(
                "this Python cannot make a virtual environment; on Debian and Ubuntu install "
                "python3-venv, or name another Python: make PYTHON=python3.12"
            )
        if self.uses_site and sys.prefix != sys.base_prefix:
            # Python lends the packages of the base installation. When it runs in an environment
            # itself, as in many container images, the packages meant are that environment's.
            packages = self.ask("import sysconfig; print(sysconfig.get_path('purelib'))")
            lent = Path(packages, "outer_environment.pth")
            lent.write_text("\n".join([*site.getsitepackages(), ""]), encoding="utf-8")

    def pip(self, *args: str) -> None:
        """Install, with pip's own progress shown."""
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *args]
        if subprocess.run(command, check=False, cwd=ROOT).returncode != 0:
            raise SetupError(
                "pip could not install the above; when the network is at fault, run the same "
                "command again: what is already here is kept"
            )

    def resolves(self, requirement: str) -> bool:
        """Whether the index in use has exactly this; downloads nothing when it has not."""
        command = [str(self.python), "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--no-deps", "--only-binary=:all:", requirement]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def cpu_index_answers() -> bool:
    """Whether PyTorch's own index of CPU builds is within reach."""
    request = urllib.request.Request(f"{CPU_INDEX}/torch/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def has_accelerator() -> bool:
    """Whether an NVIDIA driver shows itself."""
    return shutil.which("nvidia-smi") is not None or any(Path("/dev").glob("nvidia[0-9]*"))


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def set_up(environment: Environment, wanted: str, extras: str) -> None:
    """Everything up to the stamp."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    environment.create()
    pinned = pinned_version(constraints, "torch")
    machine = Machine(
        installed=environment.ask(_INSTALLED_TORCH),
        pinned=pinned,
        is_linux=platform.system() == "Linux",
        has_accelerator=has_accelerator(),
        index_has_cpu_build=lambda: environment.resolves(f"torch=={pinned}+cpu"),
        cpu_index_answers=cpu_index_answers,
    )
    choice = choose_torch(wanted, machine)
    say(f"torch: {choice.reason}")
    if choice.pip_args:
        replace = ["--force-reinstall"] if machine.installed else []
        environment.pip("--no-deps", *replace, *choice.pip_args)
    torch_version = environment.ask(_INSTALLED_TORCH)
    if not version_fits(torch_version):
        raise SetupError(
            f"torch is {torch_version or 'missing'} after that: Atoll needs 2.7 or newer"
        )
    names = environment.ask(_INSTALLED_NAMES).split() if environment.uses_site else []
    pins = environment.folder / "pins.txt"
    site_names = frozenset(normal_name(name) for name in names)
    pins.write_text(pins_for(constraints, torch_version, site_names), encoding="utf-8")
    size = "about 0.1 GB besides torch; a minute" if extras == "dev" else "about 0.8 GB; minutes"
    say(f"installing Atoll with [{extras}] and what it needs, {size}")
    pinned_quietly = ["-qq", "--constraint", str(pins)]
    # The build tool comes first, so that pip builds with it and fetches none of its own.
    environment.pip(*pinned_quietly, "--no-deps", BUILD_TOOL)
    environment.pip(*pinned_quietly, "--no-build-isolation", "--editable", f".[{extras}]")
    check_it_works(environment)


def check_it_works(environment: Environment) -> None:
    """Import what everything else stands on."""
    if subprocess.run([str(environment.python), "-c", _WORKS], check=False).returncode != 0:
        raise SetupError(
            f"what was installed does not work: rm -r {environment.folder}, then again"
        )


def parse_args() -> argparse.Namespace:
    """The command line, as the Makefile gives it."""
    parser = argparse.ArgumentParser(description="Make the virtual environment for `make`.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="auto", help="auto, cpu, default or a requirement")
    parser.add_argument("--venv-flags", default="", help="for example --system-site-packages")
    parser.add_argument("--extras", default="dev")
    parser.add_argument("--stamp", type=Path, help="file written once all has worked")
    return parser.parse_args()


def main() -> int:
    """Set up, and say how long it took."""
    if sys.version_info < OLDEST_PYTHON:
        print(
            "setup: Atoll needs Python 3.11 or newer, this is "
            f"{platform.python_version()}: make PYTHON=python3.12",
            file=sys.stderr,
        )
        return 2
    args = parse_args()
    start_s = time.monotonic()
    flags = args.venv_flags.split()
    environment = Environment(args.venv.absolute(), flags)
    if args.stamp is not None:
        args.stamp.unlink(missing_ok=True)
    try:
        set_up(environment, args.torch, args.extras)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: stopped; run it again to go on from here", file=sys.stderr)
        return 130
    if args.stamp is not None:
        args.stamp.write_text(f"{args.torch} {' '.join(flags)}\n", encoding="utf-8")
    say(f"ready in {time.monotonic() - start_s:.0f} s: {os.path.relpath(environment.folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
