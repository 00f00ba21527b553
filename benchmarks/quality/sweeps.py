"""Stage 1 of the quality study: the sweeps, and what they say is best.

They run on seeds and on held-out text of their own, so that what is chosen from them is not
measured on what it was chosen on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from table import Table
from trials import (
    OUTERS,
    SGD,
    base,
    changed,
    decoupled,
    keeping,
    slower_moments,
    surrounded,
    to_test,
    warmed,
    with_outer,
)

from atoll.compare.methods import FAMILY_OUTER, with_merge, with_protocol
from atoll.compare.statistics import mean
from atoll.compare.store import ResultFolder
from atoll.compare.trial import Method, Trial
from atoll.merge.averaging import Rule

SWEEP_SEEDS = (100, 101)


class NotSwept(ValueError):
    """A table needs the outcome of a sweep."""


RATES = (1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3)


def sweep_rate(_: ResultFolder) -> Table:
    """The inner learning rate of the data-parallel baseline."""
    rows = {f"lr {rate:g}": Trial("data-parallel", keeping(base(rate, 4))) for rate in RATES}
    return _sweep("sweep-rate", "Data-parallel: inner learning rate", rows, is_ordered=True)


def first_looks(_: ResultFolder) -> Table:
    """What costs loss at all, before anything is tuned but the data-parallel rate."""
    settings = keeping(base(2.8e-3, 4))
    averaged = decoupled(settings, "mean", SGD)
    together = Trial("diloco", averaged.training)
    rows = {
        "data-parallel": Trial("data-parallel", settings),
        "local-step-1": Trial("local-step-1", settings),
        "DiLoCo, mean, H = 24": together,
        "DiLoCo, mean, H = 6": changed(together, P=6, H=6),
        "mean": averaged,
        "mean, overwrite and drop": changed(averaged, receipt="overwrite", unmerged="drop"),
        "mean, moments 4 times slower": slower_moments(averaged, 4),
        "mean, overwrite and drop, moments 4 times slower": slower_moments(
            changed(averaged, receipt="overwrite", unmerged="drop"), 4
        ),
        "DiLoCo, mean, H = 24, moments 4 times slower": slower_moments(together, 4),
        "data-parallel, moments 4 times slower": slower_moments(
            Trial("data-parallel", settings), 4
        ),
        "mean, 100 data-parallel steps first": warmed(averaged, 100),
        "mean, 100 data-parallel steps first, nesterov 0.7, 0.9": warmed(
            decoupled(settings, "mean", OUTERS["nesterov 0.7, 0.9"]), 100
        ),
        "rda": decoupled(settings, "rda", SGD),
        "rda, nesterov 0.4, 0.8": decoupled(settings, "rda", OUTERS["nesterov 0.4, 0.8"]),
    }
    for name in ("nesterov 1.0, 0.5", "nesterov 0.7, 0.9"):
        rows[f"mean, {name}"] = decoupled(settings, "mean", OUTERS[name])
    title = "First looks, M = 4, plain SGD outside where nothing is said"
    return Table("first-looks", title, rows, "data-parallel", SWEEP_SEEDS)


def second_looks(_: ResultFolder) -> Table:
    """Receipt rules, who is in a merge, and H that grows: what decisions 0015 to 0017 rest on."""
    settings = base(2.8e-3, 4)
    averaged = decoupled(settings, "mean", SGD)
    lan = surrounded(averaged, model_transfer_s=0.1, delay_s=0.001)
    quick = surrounded(changed(averaged, P=8, first_H=6), model_transfer_s=3.0)
    short = changed(lan, P=6, H=6, tau=3)
    slower = decoupled(base(2e-3, 4), "rda", SGD)
    rows = {"mean: overwrite, carry": averaged}
    for receipt, unmerged in (("keep", "carry"), ("keep", "drop"), ("overwrite", "drop")):
        rows[f"mean: {receipt}, {unmerged}"] = changed(averaged, receipt=receipt, unmerged=unmerged)
    for name, trial in (
        ("rda, lr 0.002", slower),
        ("rda, outer rate 0.7", decoupled(settings, "rda", OUTERS["sgd 0.7"])),
        ("mean, P = 8, links 4 times as fast", changed(quick, first_H="H")),
        ("mean, P = 8, links 4 times as fast, H grows from 6", quick),
        ("mean, P = H = 6, LAN, tau = 3", short),
    ):
        rows[f"{name}: keep, carry"] = changed(trial, receipt="keep")
        rows[f"{name}: overwrite, drop"] = changed(trial, unmerged="drop")
    rows["mean, P = H = 6, LAN, tau = 1: keep, carry"] = changed(short, tau=1, receipt="keep")
    for tau in (1, 3):
        rows[f"mean, P = 1, H = 6, LAN, tau = {tau}: keep, carry"] = changed(
            lan, P=1, H=6, tau=tau, receipt="keep"
        )
    title = "Receipt rules, participation, and H that grows, M = 4"
    return Table("second-looks", title, rows, "mean: overwrite, carry", SWEEP_SEEDS)


Grid = Mapping[int, Sequence[tuple[Rule, str, Sequence[float]]]]
"""By M: merge rule, outer optimizer, inner learning rates."""
KEEP_GRID: Grid = {
    4: (
        ("rda", "sgd 1.0", (1e-3, 1.4e-3, 2e-3, 2.8e-3)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("rda", "nesterov 0.7, 0.5", (7e-4, 1e-3, 1.4e-3)),
        ("rda", "nesterov 0.4, 0.9", (5e-4, 1e-3)),
        ("mean", "sgd 1.0", (2e-3, 2.8e-3)),
        ("mean", "nesterov 1.0, 0.5", (1e-3, 1.4e-3, 2e-3)),
        ("mean", "nesterov 0.7, 0.9", (5e-4,)),
    ),
}
DECOUPLED_GRID: Grid = {
    4: (
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3, 4e-3)),
        ("rda", "sgd 0.5", (4e-3,)),
        ("rda", "nesterov 0.4, 0.5", (2e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
        ("rda", "ramp to nesterov 0.7, 0.9", (1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "sgd 0.7", (4e-3,)),
        ("mean", "nesterov 0.7, 0.5", (1.4e-3,)),
        ("mean", "ramp to nesterov 0.7, 0.9", (1.4e-3, 2e-3, 2.8e-3, 4e-3)),
        ("rda", "ramp to nesterov 0.5, 0.9", (2.8e-3,)),
        ("mean", "ramp to nesterov 1.0, 0.9", (2e-3,)),
    ),
    8: (
        ("rda", "ramp to nesterov 0.7, 0.9", (1e-3, 1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "ramp to nesterov 0.7, 0.9", (1.4e-3, 2e-3, 2.8e-3)),
        ("rda", "ramp to nesterov 0.5, 0.9", (2.8e-3,)),
        ("mean", "ramp to nesterov 1.0, 0.9", (2e-3,)),
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3, 4e-3)),
        ("rda", "sgd 0.5", (4e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
    ),
    2: (
        ("rda", "ramp to nesterov 0.7, 0.9", (1e-3, 1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
    ),
}
DILOCO_GRID: Grid = {
    4: (
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
        ("mean", "sgd 0.7", (2.8e-3,)),
        ("mean", "nesterov 0.7, 0.9", (1e-3,)),
        ("rda", "ramp to nesterov 0.7, 0.9", (1e-3, 1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
    ),
    8: (
        ("rda", "ramp to nesterov 0.7, 0.9", (1e-3, 1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
    ),
    2: (
        ("rda", "ramp to nesterov 0.7, 0.9", (1.4e-3, 2e-3, 2.8e-3)),
        ("mean", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
        ("rda", "sgd 0.7", (2.8e-3,)),
    ),
}


def sweep_keep(_: ResultFolder) -> Table:
    """A wide one, under the receipt rule that loses no work."""
    rows = {
        label: changed(trial, receipt="keep")
        for label, trial in _grid("decoupled", 4, KEEP_GRID).items()
    }
    return _sweep("sweep-keep-4", "Decoupled, M = 4, receipt keep", rows)


def sweep(_: ResultFolder, num_learners: int) -> Table:
    """Merge rule, outer optimizer and inner learning rate of the decoupled method."""
    rows = _grid("decoupled", num_learners, DECOUPLED_GRID)
    return _sweep(f"sweep-{num_learners}", f"Decoupled, M = {num_learners}", rows)


def sweep_diloco(_: ResultFolder, num_learners: int) -> Table:
    """The same of synchronous DiLoCo."""
    rows = _grid("diloco", num_learners, DILOCO_GRID)
    title = f"Synchronous DiLoCo, M = {num_learners}"
    return _sweep(f"sweep-diloco-{num_learners}", title, rows)


def _grid(method: Method, num_learners: int, grid: Grid) -> dict[str, Trial]:
    """An outer step multiplies what the learners did, so each is tried with rates of its own."""
    return {
        f"{rule}, {outer}, lr {rate:g}": Trial(
            method, with_merge(base(rate, num_learners), rule, OUTERS[outer])
        )
        for rule, outer, rates in grid[num_learners]
        for rate in rates
    }


def ramps(_: ResultFolder) -> Table:
    """Outer momentum that comes slowly: from plain steps to nesterov 0.7, 0.9."""
    rows: dict[str, Trial] = {}
    for merges, rate in ((30, 2.8e-3), (30, 2e-3), (15, 2e-3), (45, 2.8e-3)):
        outer = replace(FAMILY_OUTER, ramp_merges=merges)
        rows[f"over {merges} merges, lr {rate:g}"] = decoupled(base(rate, 4), "rda", outer)
    ramp = replace(FAMILY_OUTER, ramp_merges=30)
    trial = decoupled(base(2e-3, 4), "rda", ramp)
    rows["over 30 merges, lr 0.002, keep"] = changed(trial, receipt="keep")
    for outer in (
        replace(ramp, momentum=0.8),
        replace(ramp, lr=0.9),
        replace(ramp, lr=0.5),
        replace(ramp, momentum=0.95),
    ):
        label = f"over 30 merges to nesterov {outer.lr:g}, {outer.momentum:g}, lr 0.002"
        rows[label] = with_outer(trial, outer)
    fewer = changed(trial, P=8)
    grows = with_outer(changed(fewer, first_H=6), replace(ramp, ramp_merges=45))
    for links, transfer_s in (("", 12.0), (", links 4 times as fast", 3.0)):
        for name, each in (("30 merges", fewer), ("45 merges, H grows from 6", grows)):
            label = f"over {name}, lr 0.002, P = 8{links}"
            rows[label] = surrounded(each, model_transfer_s=transfer_s)
    grows = changed(decoupled(base(2.8e-3, 4), "rda", ramp), P=8, first_H=6)
    label = "over 30 merges, lr 0.0028, P = 8, links 4 times as fast, H grows from 6"
    rows[label] = surrounded(grows, model_transfer_s=3.0)
    rows["over 30 merges, lr 0.0028, M = 8"] = decoupled(base(2.8e-3, 8), "rda", ramp)
    longer = replace(trial.training.train, budget_tokens=2 * trial.training.train.budget_tokens)
    longer_trial = replace(trial, training=replace(trial.training, train=longer))
    for merges in (30, 60):
        rows[f"over {merges} merges, lr 0.002, 2,000 steps"] = with_outer(
            longer_trial, replace(ramp, ramp_merges=merges)
        )
    title = "Outer rate and momentum ramp to nesterov 0.7, 0.9, M = 4"
    return _sweep("sweep-ramps", title, rows)


def _sweep(name: str, title: str, rows: Mapping[str, Trial], is_ordered: bool = False) -> Table:
    return Table(name, title, rows, next(iter(rows)), SWEEP_SEEDS, is_ordered=is_ordered)


# ---------------------------------------------------------------- what the sweeps say


def best(folder: ResultFolder, tables: Sequence[Table], rule: str = "") -> str:
    """Of the rows that all these sweeps have, the one with the lowest loss over all of them.

    One run cannot tell neighbouring rows, so a choice by one sweep would follow the noise. With a
    merge rule, of the rows under it.
    """
    labels = [
        label
        for label in tables[0].rows
        if label.startswith(rule) and all(label in table.rows for table in tables)
    ]
    losses: dict[str, list[float]] = {label: [] for label in labels}
    for table in tables:
        for seed in table.seeds:
            found = {label: folder.find(table.rows[label].with_seed(seed)) for label in labels}
            if all(kept is not None for kept in found.values()):
                for label, kept in found.items():
                    losses[label].append(kept.result.loss if kept else float("inf"))
            elif seed == table.seeds[0]:
                raise NotSwept(f"run --table {table.name} first: this one takes its best row")
    return min(losses, key=lambda label: mean(losses[label]))


def best_together(folder: ResultFolder) -> Trial:
    """The data-parallel baseline, tuned."""
    table = sweep_rate(folder)
    return to_test(table.rows[best(folder, [table])])


def best_rate(folder: ResultFolder) -> float:
    """The data-parallel baseline's inner learning rate."""
    return best_together(folder).training.train.optimizer.learning_rate


def best_decoupled(folder: ResultFolder, num_learners: int, rule: str = "") -> Trial:
    """The decoupled method at M, tuned. M = 1 needs no outer optimizer."""
    if num_learners == 1:
        return to_test(decoupled(base(best_rate(folder), 1), "rda", SGD))
    return _of_all_sweeps(folder, sweep(folder, 4), num_learners, rule)


def best_diloco(folder: ResultFolder, num_learners: int) -> Trial:
    """Synchronous DiLoCo at M, tuned."""
    return _of_all_sweeps(folder, sweep_diloco(folder, 4), num_learners)


def _of_all_sweeps(folder: ResultFolder, table: Table, num_learners: int, rule: str = "") -> Trial:
    """One choice for both methods and every M."""
    sweeps = [sweep(folder, M) for M in DECOUPLED_GRID]
    sweeps += [sweep_diloco(folder, M) for M in DILOCO_GRID]
    found = table.rows[best(folder, sweeps, rule)]
    return to_test(replace(found, training=with_protocol(found.training, M=num_learners)))


SWEEPS: Mapping[str, Callable[[ResultFolder], Table]] = {
    "sweep-rate": sweep_rate,
    "first-looks": first_looks,
    "second-looks": second_looks,
    "sweep-keep-4": sweep_keep,
    **{f"sweep-{M}": functools.partial(sweep, num_learners=M) for M in DECOUPLED_GRID},
    **{f"sweep-diloco-{M}": functools.partial(sweep_diloco, num_learners=M) for M in DILOCO_GRID},
    "sweep-ramps": ramps,
}
