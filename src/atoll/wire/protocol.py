"""The version of the protocol, and the check of a neighbour's.

There is one version at a time: a neighbour that speaks another one is refused with a sentence
that names both, and nothing is guessed.
"""

from __future__ import annotations

from atoll.wire.errors import WireError

PROTOCOL = 1
"""What this program speaks."""
PROTOCOL_HEADER = "Atoll-Protocol"
"""The header in which every client says what it speaks."""
ROOT = f"/atoll/v{PROTOCOL}"
"""Everything of a run lives under `{ROOT}/{run}`."""
LONGEST_SHOWN = 20


def check_protocol(said: str | None) -> None:
    """Refuse a neighbour that does not speak this version; `said` is what its header holds."""
    if said == str(PROTOCOL):
        return
    if said is None:
        other = f"no {PROTOCOL_HEADER} header came"
    else:
        other = f"the other side speaks {said[:LONGEST_SHOWN]!r}"
    raise WireError(
        "protocol",
        f"this side speaks protocol {PROTOCOL}, {other}: install the same version of Atoll on both",
    )
