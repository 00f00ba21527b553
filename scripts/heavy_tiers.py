"""Say which heavy tests a change calls for: one line per tier, tab-separated.

    run    <tier>  <file> <file> ...
    leave  <tier>  <why it is not called for>

A tier is the heavy tests of one folder of `tests/`, which mirrors `src/atoll/`. It is called for
when its folder or the package of the same name changed, or something that everything stands on.
The heavy tests at the top of `tests/` are about the whole system: any change of source calls for
them. Nothing is left out when it is unknown what changed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
WHOLE_SYSTEM = "whole-system"
COMMON = ("src/atoll/core/", "tests/conftest.py", "pyproject.toml", "constraints.txt", ".ci/")


def git(*args: str) -> str:
    """What git printed, empty when it failed."""
    command = ["git", "-C", str(ROOT), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def base_commit() -> str:
    """What to compare with: where this branch left the main one, else the commit before."""
    head = git("rev-parse", "HEAD")
    for branch in ("origin/HEAD", "origin/main", "main"):
        base = git("merge-base", "HEAD", branch)
        if base and base != head:
            return base
    return git("rev-parse", "--verify", "--quiet", "HEAD~1")


def changed_paths() -> list[str] | None:
    """Paths that differ from the base, uncommitted ones included; None when there is no base."""
    base = base_commit()
    if not base:
        return None
    tracked = git("diff", "--name-only", base).splitlines()
    return tracked + git("ls-files", "--others", "--exclude-standard").splitlines()


def heavy_files() -> list[str]:
    """Test files with at least one heavy test."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "heavy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode not in (0, 5):  # 5: none collected
        sys.exit(f"heavy_tiers: pytest cannot collect the tests:\n{done.stdout}{done.stderr}")
    files = (line.split("::")[0] for line in done.stdout.splitlines() if "::" in line)
    return list(dict.fromkeys(files))


def tiers_of(files: list[str]) -> dict[str, list[str]]:
    """Test files by tier."""
    tiers: dict[str, list[str]] = {}
    for name in files:
        parts = PurePosixPath(name).parts
        tier = parts[1] if len(parts) > 2 else WHOLE_SYSTEM
        tiers.setdefault(tier, []).append(name)
    return tiers


def watched_by(tier: str) -> tuple[str, ...]:
    """Where a change calls for this tier."""
    if tier == WHOLE_SYSTEM:
        return ("src/", "tests/test_", "tests/pair.py", *COMMON)
    return (f"src/atoll/{tier}/", f"tests/{tier}/", *COMMON)


def main() -> int:
    """Print the lines."""
    changed = changed_paths()
    for tier, files in tiers_of(heavy_files()).items():
        watched = watched_by(tier)
        if changed is None or any(path.startswith(watched) for path in changed):
            print("run", tier, " ".join(files), sep="\t")
        else:
            print("leave", tier, f"nothing changed in {', '.join(watched)}", sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
