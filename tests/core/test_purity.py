"""Purity: the same events make the same effects, in this process, again, and in any other.

A swarm of runs with faults is simulated twice, once in an interpreter that hashes text another way;
all events and effects must be the same to the letter, the sentences of reasons included.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atoll.simulator import swarm
from atoll.simulator.world import World

SOURCE = Path(__file__).resolve().parents[2] / "src"
SEEDS = (3, 8, 21)
FAULTS_S = 40.0


def digest(seed: int) -> str:
    """One run with faults, as a digest over every event and every effect of every core."""
    seen = hashlib.sha256()

    def record(party: str, now_s: float, event: object, effects: list[Any]) -> None:
        seen.update(f"{party} {now_s!r} {event!r} {effects!r}\n".encode())

    def watched(*drawn: Any) -> World:
        world = draw(*drawn)
        world.recorders.append(record)
        return world

    draw = swarm._draw_world
    swarm._draw_world = watched
    try:
        outcome = swarm.run_seed(seed, FAULTS_S)
    finally:
        swarm._draw_world = draw
    assert not outcome.failure, outcome.failure
    return f"{outcome.events} {seen.hexdigest()}"


@pytest.fixture(scope="module")
def here() -> dict[int, str]:
    return {seed: digest(seed) for seed in SEEDS}


def test_the_same_seed_makes_the_same_run(here: dict[int, str]) -> None:
    assert {seed: digest(seed) for seed in SEEDS} == here
    assert len(set(here.values())) == len(SEEDS)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_hash_seed_of_the_process_changes_nothing(hash_seed: str, here: dict[int, str]) -> None:
    program = f"from core.test_purity import digest; print([digest(n) for n in {SEEDS}])"
    paths = os.pathsep.join([str(SOURCE), str(Path(__file__).resolve().parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([here[seed] for seed in SEEDS])
