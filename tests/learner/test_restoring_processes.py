"""Learners as processes that are killed and come back: whose inner state they go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learner.test_end_to_end import SETTINGS, World

HEIR = Path(__file__).with_name("heir_process.py")
LENT = re.compile(
    r"lends inner state of fragment (\d+) after step (\d+) in transfer (\S+): sha256 (\w+)"
)

pytestmark = pytest.mark.slow


class Reef(World):
    """A syncer and learners that restore."""

    def start_heir(self, name: str, **options: Any) -> None:
        record = self.home / f"{name}.jsonl"
        command = [str(HEIR), str(self.home / "run.invite"), name]
        self._start(name, [*command, str(self.stop_file), str(record), json.dumps(options)])

    def lives(self, name: str) -> list[dict[str, Any]]:
        """What each process of a learner said when it had joined."""
        return [each for each in self.records(name) if "joined" in each]

    def wait_for_life(self, name: str, number: int) -> dict[str, Any]:
        self.wait(f"life {number} of {name}", lambda: len(self.lives(name)) == number)
        return self.lives(name)[-1]

    def lent(self, name: str) -> list[tuple[int, int, str, str]]:
        """Fragment, step, transfer and digest of what a learner lent, by its own log."""
        found = LENT.findall((self.home / f"{name}.log").read_text())
        return [
            (int(fragment), int(step), transfer, sha) for fragment, step, transfer, sha in found
        ]


@pytest.fixture
def reef(tmp_path: Path) -> Iterator[Reef]:
    made = Reef(tmp_path, tls=False)
    protocol = {**SETTINGS["protocol"], "M": 3, "P": 3}
    made.write_settings({**SETTINGS, "protocol": protocol})
    made.start_syncer(new=True)
    yield made
    for name in list(made.processes):
        made.kill(name)


def test_inner_state_comes_from_a_healthy_peer_and_a_killed_donor_is_followed_by_the_next(
    reef: Reef,
) -> None:
    for name in ("ann", "cat"):
        reef.start_heir(name, pace_s=0.2)
    reef.start_heir("bob")
    reef.wait("the first merges", lambda: min(reef.versions()) >= 1)
    reef.wait("donors", lambda: min(len(reef.records(name)) for name in ("ann", "cat")) > 25)
    reef.kill("bob")
    reef.start_heir("bob")
    life = reef.wait_for_life("bob", 2)
    restored = life["restored"]
    assert (restored["source"], restored["num_fragments"]) == ("peer", 3), restored
    assert restored["num_tensors"] == 3 * 6 and life["warmup"] == 1.0
    lent = reef.lent(restored["donor"])
    assert [fragment for fragment, *_ in lent] == [0, 1, 2]
    assert [digest for *_, digest in lent] == life["inner"], "bit for bit"
    steps = [step for _, step, *_ in lent]
    assert len(set(steps)) == 3, "the donor copies no two fragments at one boundary"

    reef.kill("bob")
    before = {name: len(reef.lent(name)) for name in ("ann", "cat")}
    reef.start_heir("bob")
    reef.wait("somebody lends", lambda: any(len(reef.lent(n)) > before[n] for n in before))
    donor, other = sorted(before, key=lambda name: before[name] == len(reef.lent(name)))
    reef.kill(donor)
    restored = reef.wait_for_life("bob", 3)["restored"]
    assert (restored["source"], restored["donor"]) == ("peer", other), restored
    assert len(reef.lent(donor)) < before[donor] + 3
    reef.wait("bob's work is merged", lambda: "bob" in reef.status()["learners"])


def test_without_a_peer_its_own_checkpoint_serves_and_without_that_it_begins_anew(
    reef: Reef,
) -> None:
    file = reef.home / "ann.inner"
    options = {"checkpoint": str(file), "checkpoint_every_s": 0.1}
    reef.start_heir("ann", **options)
    reef.wait("a merge and a checkpoint", lambda: file.exists() and max(reef.versions()) >= 1)
    assert reef.lives("ann")[0]["restored"]["source"] == "first"
    assert reef.lives("ann")[0]["warmup"] == 1.0
    reef.kill("ann")
    reef.start_heir("ann", **options)
    life = reef.wait_for_life("ann", 2)
    assert life["restored"]["source"] == "checkpoint", life
    assert life["restored"]["num_tensors"] == 3 * 6 and life["warmup"] == 1.0

    reef.kill("ann")
    reef.start_heir("ann")
    life = reef.wait_for_life("ann", 3)
    assert life["restored"]["source"] == "fresh" and "no peer" in life["restored"]["sentence"]
    assert 0 < life["warmup"] < 0.1
    begun = len(reef.records("ann"))
    reef.wait("the learning rate is back", lambda: reef.records("ann")[-1].get("warmup") == 1.0)
    warm = [each["warmup"] for each in reef.records("ann")[begun:]]
    assert warm == sorted(warm)
