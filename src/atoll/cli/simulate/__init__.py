"""`atoll simulate <what>`: what a set-up would do, in virtual time. One file per command.

To add one, write `atoll/cli/simulate/<name>.py` with a function of that name, and its line below.
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final[dict[str, str]] = {}
"""Every command and its line in `atoll simulate --help`, in the order of the help."""
