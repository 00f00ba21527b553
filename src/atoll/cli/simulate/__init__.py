"""`atoll simulate <what>`: what a set-up would do, in virtual time. One file per command.

To add one, write `atoll/cli/simulate/<name>.py` with a function of that name, and its line below.
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "train": "Train for real in virtual time: what failures cost in loss.",
    "goodput": "Say which share of the chips' time is useful when chips fail and come back.",
    "grid": "Compare goodput of five systems on 150k to 2.4M chips, beside what was published.",
    "scavenge": "Tell the training time when extra compute is there for half of the run.",
    "mixed": "Tell what waiting costs the faster half when the other half is slower.",
    "bandwidth": "Compare what ways of training ask of the lines between data centres.",
}
"""Every command and its line in `atoll simulate --help`, in the order of the help."""
