"""SIGTERM, as a spot machine gets it before it is taken away: real learners and a real syncer."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.core.effects import Merge
from atoll.tape.read import Entry, read_tapes
from launch.shore import Shore

LEAVE_S = 60.0
"""Handing in takes a second or two; a machine that is busy with other tests must not fail this."""
SHORT_S = 10.0


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Shore]:
    made = Shore(tmp_path, lease_s=600.0)
    made.syncer()
    made.wait("the syncer", lambda: made.events("syncer"))
    yield made
    made.close()


def merged_up_to(shore: Shore, learner: str) -> dict[int, int]:
    """For each fragment the learner's last token that a merge was ordered with."""
    found: dict[int, int] = {}
    for tape in read_tapes(shore.folder.tapes):
        for segment in tape.segments if tape.party.startswith("shard-") else ():
            for item in segment.items():
                for effect in item.effects if isinstance(item, Entry) else ():
                    for part in effect.parts if isinstance(effect, Merge) else ():
                        if part.cut.id.learner == learner:
                            end = max(found.get(effect.fragment, 0), part.cut.end_token)
                            found[effect.fragment] = end
    return found


def trained(shore: Shore, learner: str) -> int:
    lines = shore.folder.metrics(learner).read_text().splitlines()
    return int(json.loads(lines[-1])["tokens"])


@pytest.mark.slow
def test_sigterm_hands_in_the_last_contribution_and_the_lease_in_time(shore: Shore) -> None:
    shore.learner("ann", "--leave-s", str(LEAVE_S))
    shore.learner("bob")
    shore.wait("both", lambda: len(shore.lives()) == 2)
    shore.merging()
    asked_s = time.monotonic()
    shore.signal("ann", signal.SIGTERM)
    assert shore.end_of("ann") == 0
    assert time.monotonic() - asked_s < LEAVE_S
    assert "this island has left: SIGTERM: it was told to leave\n" in shore.said("ann")
    shore.merging()
    held = shore.wait(
        "the return of its leases",
        lambda: [n for n in [shore.status()["coordinator"]["leases_held"]] if n <= 3],
    )
    assert held, "one learner holds its own: in use, and two ahead"
    dropped = shore.status()["shards"]["0"]["tally"]["dropped"]
    assert "left" not in dropped
    for name in ("bob", "syncer"):
        shore.signal(name, signal.SIGTERM)
        assert shore.end_of(name) == 0
    shore.verified()
    merged, last = merged_up_to(shore, "ann"), trained(shore, "ann")
    assert merged == dict.fromkeys(range(4), last), "the last step's work, in every fragment"


@pytest.mark.slow
def test_sigterm_while_the_syncer_is_unreachable_ends_in_time_and_twice_at_once(
    shore: Shore,
) -> None:
    shore.learner("ann", "--leave-s", str(SHORT_S))
    shore.learner("bob", "--leave-s", "600")
    shore.wait("both", lambda: len(shore.lives()) == 2)
    shore.merging()
    shore.kill("syncer")
    for name in ("ann", "bob"):
        shore.signal(name, signal.SIGTERM)
    assert shore.end_of("ann") == 0
    assert "the time to hand in is over" in shore.said("ann")
    shore.wait("the notice", lambda: "SIGTERM: it was told to leave; 600 s" in shore.said("bob"))
    shore.signal("bob", signal.SIGTERM)
    assert shore.end_of("bob") == -signal.SIGTERM, "long before its 600 s"
