"""A real run and a simulated one of the same small configuration, side by side.

The real one is processes, sockets, disks and a real model; the simulated one is the same cores in
virtual time, told the run file's settings, the layout's fragments and the codecs' sizes, and
nothing that was measured.

What must agree, and why not to the last digit: rounds go by the steps of the fastest learner, so a
busy machine that slows one of three shifts a few of them. Participation is the most exposed: a
process that gets no processor for two steps is late (99 % on a quiet machine, 94 % at a load of 20
on two cores). Bytes are counted per learner called or per version made, and agree within 2 %.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from atoll.fragments.layout import Layout
from atoll.launch.folder import RunFolder
from atoll.launch.local import LocalRun
from atoll.runfile.settings import RunFile, parse
from atoll.simulator.bandwidth import body_sizes
from atoll.simulator.network import Island, Link
from atoll.simulator.payload import NoPayload
from atoll.simulator.world import Conditions, World
from atoll.train.model import build_model

LIMIT_S = 240.0
STEPS = 110

SAME: dict[str, Any] = {
    "uplink": "int8",
    "seed": 5,
    "run": {"run": "same", "budget_tokens": 3 * STEPS * 4 * 128, "last_round_s": 5.0},
    "protocol": {"M": 3, "P": 8, "H": 8, "K": 1},
    "merge": {"downlink_codec": "int4"},
    "outer": {"kind": "sgd", "lr": 1.0},
    "train": {"batch_size": 4, "model": {"preset": "tiny"}, "data": {"max_megabytes": 0.5}},
    "local": {"learners": 3, "min_step_s": 0.18},
}


@dataclass(frozen=True, slots=True)
class Story:
    """What both kinds of run tell. Bytes without version 0, which is sent once."""

    merges: int
    learners_merged: int
    learners_live: int
    bytes_up: int
    bytes_down: int

    @property
    def participation(self) -> float:
        return self.learners_merged / self.learners_live

    @property
    def up_per_call(self) -> float:
        """A learner that is called sends its work, in time or not."""
        return self.bytes_up / self.learners_live

    @property
    def down_per_merge(self) -> float:
        return self.bytes_down / self.merges


def real(run_file: RunFile, directory: Path, layout: Layout) -> Story:
    """Processes on the loopback, to the end of the run."""
    folder = RunFolder(directory)
    run_file, new = folder.prepare(run_file)
    local = LocalRun(folder, run_file, new)
    status: dict[str, Any] = {}
    until_s = time.monotonic() + LIMIT_S
    try:
        local.start()
        while not local.is_over:
            assert time.monotonic() < until_s, (local.incidents, status.get("waiting"))
            status = local.poll().status or status
            time.sleep(0.2)
    finally:
        local.stop()
    assert local.incidents == [], "a run that was not disturbed"
    tally, counts = status["shards"]["0"]["tally"], status["counts"]
    version_0 = 4 * layout.numel
    return Story(
        tally["merges"],
        tally["learners_merged"],
        tally["learners_live"],
        counts["bytes_in"] - version_0,
        counts["bytes_out"] - run_file.local.learners * version_0,
    )


def simulated(run_file: RunFile, layout: Layout) -> Story:
    """The same run file in virtual time."""
    numels = tuple(each.numel for each in layout.fragments)
    settings = run_file.syncer
    sizes = body_sizes(numels, settings.uplink, settings.merge.downlink_codec)
    link = Link(delay_s=0.0005, bulk_s=0.005)
    num, step_s = run_file.local.learners, run_file.local.min_step_s
    islands = [  # processes begin when they do, so their steps are spread over one
        Island(f"island-{number}", step_s, 0.02, link, joins_at_s=number * step_s / num)
        for number in range(num)
    ]
    run = replace(settings.run, layout=layout.fingerprint(), fragment_sizes=numels)
    payload = NoPayload(run_file.train.step_tokens)
    world = World(settings.protocol, run, islands, Conditions(sizes=sizes), payload)
    nodes = list(world.learners.values())
    assert world.run_until(lambda: all(node.over_code for node in nodes), 600.0)
    tally = world.shards[0].core.state.tally
    version_0 = 4 * layout.numel
    return Story(
        tally.merges,
        tally.learners_merged,
        tally.learners_live,
        sum(node.wire.up.num_bytes for node in nodes) - version_0,
        sum(node.wire.down.num_bytes for node in nodes) - len(nodes) * version_0,
    )


@pytest.mark.heavy
def test_a_real_run_and_the_simulator_tell_the_same_story(tmp_path: Path) -> None:
    run_file = parse(SAME)
    layout = Layout.from_module(build_model(run_file.train.model, run_file.train.seed), 8)
    ours, theirs = real(run_file, tmp_path / "run", layout), simulated(run_file, layout)
    said = f"real {ours}, simulated {theirs}"
    assert ours.up_per_call == pytest.approx(theirs.up_per_call, rel=0.02), said
    assert ours.down_per_merge == pytest.approx(theirs.down_per_merge, rel=0.02), said
    assert ours.merges == pytest.approx(theirs.merges, rel=0.05), said
    assert ours.participation == pytest.approx(theirs.participation, abs=0.15), said
