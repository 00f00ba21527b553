"""The goodput grid of the simulator: published cells beside ours, and how long it takes.

Systems by numbers of chips, each chip failing once a year, driven by the cores of production where
there is a syncer. Also: scavenging, mixed hardware, simulated seconds per second of one core, and
the objects in memory after one and after ten times the simulated time. Times are processor time of
this process; other load on the machine costs caches, so read `load_before`.

    python benchmarks/goodput_grid.py [--days 0] [--seed 0]
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from _common import machine, write_results

from atoll.cli.simulate.chips_charts import draw_goodput, draw_grid, draw_mixed, draw_scavenge
from atoll.simulator.chips.constants import CHIPS, PROTOCOL, ChipConstants
from atoll.simulator.chips.goodput import chip_world, measure
from atoll.simulator.chips.grid import Cell, cells, name_of, worst_difference
from atoll.simulator.chips.island import (
    ChipIsland,
    Site,
    StepEnd,
    elastic_island,
    rigid_island,
)
from atoll.simulator.chips.job import Job
from atoll.simulator.chips.mixed import Mix, mixed
from atoll.simulator.chips.scavenge import PUBLISHED, scavenge
from atoll.simulator.chips.settings import ChipRun
from atoll.simulator.world import Conditions

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
MEMORY_SPAN_S = 20_000.0


def main() -> None:
    arguments = parse_arguments()
    PICTURES.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine()}
    report |= {"constants": {"chips": asdict(CHIPS), "protocol": asdict(PROTOCOL)}}
    report |= the_grid(arguments.days, arguments.seed)
    report["sensitivity"] = sensitivity(arguments.seed)
    report["speed"] = speed(arguments.seed)
    report["memory"] = memory()
    report["scavenge"] = the_scavenging(arguments.seed)
    mix = Mix(seed=arguments.seed)
    rules = mixed(mix)
    draw_mixed(mix, rules, PICTURES / "mixed.png")
    report["mixed"] = [each.as_dict() for each in rules]
    draw_goodput(measure(ChipRun(seed=arguments.seed)), PICTURES / "goodput.png")
    write_results("goodput_grid", "virtual-time", report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--days", type=float, default=0.0, help="simulated days a cell")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def the_grid(days: float, seed: int) -> dict[str, Any]:
    """Every cell, with the time it took."""
    found: list[Cell] = []
    seconds: list[float] = []
    begin_s = last_s = time.process_time()
    for cell in cells(days, seed):
        now_s = time.process_time()
        seconds.append(now_s - last_s)
        last_s = now_s
        found.append(cell)
        show(cell, seconds[-1])
    took_s = time.process_time() - begin_s
    worst = worst_difference(found)
    print(f"whole grid {took_s:.0f} s; largest difference {100 * worst:.2f} points")
    draw_grid(found, PICTURES / "goodput_grid.png")
    rows = [c.as_dict() | {"took_s": round(s, 2)} for c, s in zip(found, seconds, strict=True)]
    return {"grid_s": round(took_s, 1), "worst_difference": worst, "cells": rows}


def show(cell: Cell, took_s: float) -> None:
    share, uptime = cell.result.goodput, cell.result.uptime.mean
    published = "" if math.isnan(cell.published) else f"published {100 * cell.published:.0f}"
    print(
        f"{name_of(cell.row):26} {cell.chips:>9,} {100 * share.mean:6.2f} ± {100 * share.se:4.2f}"
        f"  {published:12}  uptime {100 * uptime:6.2f}  {took_s:5.1f} s",
        flush=True,
    )


class WholeStepLost(ChipIsland):
    """What if the others could not finish a step in which a slice fails."""

    def step_ends(self, now_s: float) -> StepEnd:
        active = self.num_active
        end = super().step_ends(now_s)
        return end if end.trained == active else replace(end, trained=0)


def sensitivity(seed: int) -> list[dict[str, Any]]:
    """Published cells as single jobs, a learner as one on N / M chips, with constants changed."""
    longer = replace(CHIPS.returns, scale_s=4 * CHIPS.returns.scale_s)
    changes = {
        "as fitted": CHIPS,
        "the whole step lost": CHIPS,
        "steps of 5 s": replace(CHIPS, step_s=5.0),
        "steps of 10 s": replace(CHIPS, step_s=10.0),
        "steps of 20 s": replace(CHIPS, step_s=20.0),
        "pauses 20 % shorter": pauses(0.8),
        "pauses 20 % longer": pauses(1.2),
        "slices of 256 chips": replace(CHIPS, slice_chips=256),
        "returns 4 times later": replace(CHIPS, returns=longer),
    }
    rows = []
    for name, constants in changes.items():
        kind = WholeStepLost if name == "the whole step lost" else ChipIsland
        none = [single(rigid_island, kind, c, constants, seed) for c in (150_000, 1_200_000)]
        sizes = (150_000 / 8, 1_200_000 / 16, 150_000, 600_000, 1_200_000)
        elastic = [single(elastic_island, kind, c, constants, seed) for c in sizes]
        rows.append({"constants": name, "none": none, "elastic": elastic})
        words = " ".join(f"{100 * share:6.1f}" for share in none + elastic)
        print(f"{name:22} {words}", flush=True)
    return rows


def pauses(factor: float) -> ChipConstants:
    return replace(
        CHIPS,
        scale_down_s=CHIPS.scale_down_s * factor,
        scale_up_s=CHIPS.scale_up_s * factor,
        restart_s=CHIPS.restart_s * factor,
    )


def single(
    make: Callable[[Site, ChipConstants], ChipIsland],
    kind: type[ChipIsland],
    chips: float,
    constants: ChipConstants,
    seed: int,
) -> float:
    """Goodput of one job over twenty days."""
    made = make(Site(chips, 1.0, f"{seed}/sensitivity"), constants)
    island = kind(made.weather, made.lose_s, made.gain_s, made.restart_s)
    job = Job(island, constants.step_s)
    job.run_until(20 * 86_400.0)
    return job.useful_slice_s / job.now_s / island.num_slices


def speed(seed: int) -> list[dict[str, Any]]:
    """Simulated seconds per second, and core items per second, of the decoupled system."""
    found = []
    for M in (2, 8, 32):
        world = chip_world(
            ChipRun(learners=M, seed=seed), CHIPS, Conditions(seed, PROTOCOL.merge_s, check=False)
        )
        world.run_for(PROTOCOL.warm_up_steps * CHIPS.step_s)
        items = world.counts.events + world.counts.effects
        begin_s, span_s = time.process_time(), 80_000.0 / M
        world.run_for(span_s)
        took_s = time.process_time() - begin_s
        items = world.counts.events + world.counts.effects - items
        found.append(
            {"M": M, "simulated_per_s": span_s / took_s, "core_items_per_s": items / took_s}
        )
        print(f"M = {M}: {span_s / took_s:,.0f} simulated seconds per second", flush=True)
    return found


def memory() -> dict[str, Any]:
    """Objects alive after one and after ten spans of simulated time."""
    run = ChipRun(chips=40_000, learners=4)
    world = chip_world(run, CHIPS, Conditions(0, PROTOCOL.merge_s, check=False))
    counts = []
    for spans in (1, 9):
        world.run_for(spans * MEMORY_SPAN_S)
        gc.collect()
        counts.append(len(gc.get_objects()))
    print(f"objects alive after {MEMORY_SPAN_S:,.0f} s and ten times that: {counts}", flush=True)
    return {"span_s": MEMORY_SPAN_S, "objects": counts}


def the_scavenging(seed: int) -> list[dict[str, Any]]:
    found = [scavenge(extra, seed) for extra in PUBLISHED]
    draw_scavenge(found, PICTURES / "scavenge.png")
    return [each.as_dict() for each in found]


if __name__ == "__main__":
    main()
