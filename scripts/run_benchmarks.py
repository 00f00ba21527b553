"""Run every benchmark, one after the other, and name those that failed.

A benchmark is a file of `benchmarks/` that runs by itself: `python benchmarks/<name>.py`, no
arguments needed. Files whose name begins with an underscore are helpers and are left out.
Benchmarks measure time, so nothing else should run beside them, and they never run beside each
other. Storms take hours and are left out by name: run them one at a time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
HOURS = ("beside_torchft.py", "soak.py", "storm_32.py", "storm_8.py")


def benchmarks(folder: Path) -> list[Path]:
    """The files to run, in the order of their names."""
    names = sorted(path.name for path in folder.glob("*.py") if not path.name.startswith("_"))
    return [folder / name for name in names if name not in HOURS]


def main() -> int:
    """Run all of them even when one fails; the exit code is 0 only when none did."""
    failed = []
    for path in benchmarks(FOLDER):
        print(f"== {path.name}", flush=True)
        start_s = time.monotonic()
        code = subprocess.run([sys.executable, str(path)], check=False).returncode
        print(f"== {path.name}: exit {code} after {time.monotonic() - start_s:.0f} s", flush=True)
        if code != 0:
            failed.append(path.name)
    print(f"left out, as they take hours: {', '.join(HOURS)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
