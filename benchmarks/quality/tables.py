"""The tables of the quality study: which trials stand in which row.

Stage 1 are the sweeps, on seeds and on held-out text of their own, so that what is chosen from them
is not measured on what it was chosen on. Stage 2 are the tables, which take the best of the sweeps
by reading the stored results; without those they refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atoll.compare.methods import FAMILY_OUTER, STREAMING_OUTER, with_merge, with_protocol
from atoll.compare.statistics import mean
from atoll.compare.store import ResultFolder
from atoll.compare.trial import Method, Trial
from atoll.core.settings import ProtocolSettings
from atoll.merge.averaging import Rule
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.simulator.training import Surroundings, TrainingSettings
from atoll.simulator.training_faults import Faults, learner_mtbf_s
from atoll.train.settings import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    StepSettings,
    TrainSettings,
)

NUM_STEPS = 1000
BATCH_SIZE = 16
SWEEP_SEEDS = (100, 101)
STEP_PAUSE_S = 12.0

SGD = OuterSettings("sgd", lr=1.0, ramp_merges=0)
OUTERS: Mapping[str, OuterSettings] = {
    "sgd 1.0": SGD,
    "sgd 0.7": OuterSettings("sgd", lr=0.7, ramp_merges=0),
    "sgd 0.5": OuterSettings("sgd", lr=0.5, ramp_merges=0),
    "nesterov 1.0, 0.5": OuterSettings("nesterov", lr=1.0, momentum=0.5, ramp_merges=0),
    "nesterov 0.7, 0.5": OuterSettings("nesterov", lr=0.7, momentum=0.5, ramp_merges=0),
    "nesterov 0.4, 0.5": OuterSettings("nesterov", lr=0.4, momentum=0.5, ramp_merges=0),
    "nesterov 0.4, 0.8": OuterSettings("nesterov", lr=0.4, momentum=0.8, ramp_merges=0),
    "nesterov 0.7, 0.9": FAMILY_OUTER,
    "ramp to nesterov 0.7, 0.9": replace(FAMILY_OUTER, ramp_merges=30),
    "nesterov 0.4, 0.9": STREAMING_OUTER,
    "nesterov 0.2, 0.9": OuterSettings("nesterov", lr=0.2, momentum=0.9, ramp_merges=0),
}


def base(learning_rate: float, num_learners: int, preset: str = "micro") -> TrainingSettings:
    """The configuration that all tables vary: 16 windows of 128 bytes a step, 1,000 steps."""
    train = TrainSettings(
        model=ModelSettings.preset(preset, context=128),
        data=DataSettings(max_megabytes=12.0, held_out_share=0.1),
        optimizer=OptimizerSettings(learning_rate=learning_rate),
        step=StepSettings(matmul="medium", compile=True),
        batch_size=BATCH_SIZE,
        budget_tokens=NUM_STEPS * BATCH_SIZE * 128,
        num_evaluation_batches=20,
    )
    protocol, merge = ProtocolSettings(M=num_learners), MergeSettings(outer=FAMILY_OUTER)
    return TrainingSettings(train, protocol, merge, judged_on="tuning")


@dataclass(frozen=True)
class Table:
    """Rows by label. Differences are to the row `reference`, or to that of the row's group."""

    name: str
    title: str
    rows: Mapping[str, Trial]
    reference: str
    seeds: Sequence[int] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    """Of rows that are compared with another one than `reference`, that one."""
    is_ordered: bool = False
    """Whether the rows are values of one number, in order."""

    @property
    def references(self) -> dict[str, str]:
        """What each row is compared with."""
        return {label: self.groups.get(label, self.reference) for label in self.rows}

    def compared_with(self) -> str:
        """The references in words."""
        names = dict.fromkeys(self.references.values())
        return ", ".join(f"*{name}*" for name in names) + (", each in its group" * (len(names) > 1))

    def trials(self, num_seeds: int) -> list[Trial]:
        """Every row under one seed, then under the next."""
        seeds = self.seeds or range(num_seeds)
        return [
            trial.with_seed(seed)
            for seed in list(seeds)[:num_seeds]
            for trial in self.rows.values()
        ]

    def labels(self, trials: Iterable[Trial]) -> dict[str, str]:
        """The row of each trial, by the trial's key."""
        seeds = sorted({trial.seed for trial in trials})
        return {t.with_seed(s).key: label for label, t in self.rows.items() for s in seeds}


class NotSwept(ValueError):
    """A table needs the outcome of a sweep."""


# ---------------------------------------------------------------- stage 1


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
        ("rda", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
        ("mean", "sgd 0.7", (4e-3,)),
        ("mean", "nesterov 0.7, 0.5", (1.4e-3,)),
    ),
    8: (
        ("rda", "ramp to nesterov 0.7, 0.9", (2e-3, 2.8e-3)),
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3, 4e-3)),
        ("rda", "sgd 0.5", (4e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
    ),
    2: (
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
        ("mean", "sgd 0.7", (4e-3,)),
    ),
}
DILOCO_GRID: Grid = {
    4: (
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
        ("mean", "sgd 0.7", (2.8e-3,)),
        ("mean", "nesterov 0.7, 0.9", (1e-3,)),
        ("rda", "ramp to nesterov 0.7, 0.9", (2e-3,)),
    ),
    8: (
        ("rda", "ramp to nesterov 0.7, 0.9", (2e-3,)),
        ("rda", "sgd 1.0", (2e-3,)),
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
    ),
    2: (
        ("rda", "sgd 0.7", (2.8e-3,)),
        ("mean", "sgd 1.0", (2.8e-3,)),
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


def keeping(settings: TrainingSettings) -> TrainingSettings:
    """Under the receipt rule that loses no work."""
    return with_protocol(settings, receipt="keep")


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
    grows = changed(decoupled(base(2.8e-3, 4), "rda", ramp), P=8, first_H=6)
    label = "over 30 merges, lr 0.0028, P = 8, links 4 times as fast, H grows from 6"
    rows[label] = surrounded(grows, model_transfer_s=3.0)
    rows["over 30 merges, lr 0.0028, M = 8"] = decoupled(base(2.8e-3, 8), "rda", ramp)
    title = "Outer rate and momentum ramp to nesterov 0.7, 0.9, M = 4"
    return _sweep("sweep-ramps", title, rows)


def _sweep(name: str, title: str, rows: Mapping[str, Trial], is_ordered: bool = False) -> Table:
    return Table(name, title, rows, next(iter(rows)), SWEEP_SEEDS, is_ordered=is_ordered)


def decoupled(settings: TrainingSettings, rule: Rule, outer: OuterSettings) -> Trial:
    """The decoupled method with a merge rule and an outer optimizer."""
    return Trial("decoupled", with_merge(settings, rule, outer))


# ---------------------------------------------------------------- what the sweeps say


def best(folder: ResultFolder, table: Table) -> Trial:
    """The row with the lowest mean loss over the sweep seeds that all rows have."""
    losses: dict[str, list[float]] = {label: [] for label in table.rows}
    for seed in table.seeds:
        found = {label: folder.find(t.with_seed(seed)) for label, t in table.rows.items()}
        if all(kept is not None for kept in found.values()):
            for label, kept in found.items():
                losses[label].append(kept.result.loss if kept else float("inf"))
    if not all(losses.values()):
        raise NotSwept(f"run --table {table.name} first: this one takes its best row")
    return table.rows[min(losses, key=lambda label: mean(losses[label]))]


def best_rate(folder: ResultFolder) -> float:
    """The data-parallel baseline's inner learning rate."""
    return best(folder, sweep_rate(folder)).training.train.optimizer.learning_rate


def best_together(folder: ResultFolder) -> Trial:
    """The data-parallel baseline, tuned."""
    return to_test(best(folder, sweep_rate(folder)))


def best_decoupled(folder: ResultFolder, num_learners: int) -> Trial:
    """The decoupled method at M, tuned. M = 1 needs no outer optimizer; 16 takes what 8 has."""
    if num_learners == 1:
        return to_test(decoupled(base(best_rate(folder), 1), "rda", SGD))
    found = best(folder, sweep(folder, min(num_learners, 8)))
    return to_test(replace(found, training=with_protocol(found.training, M=num_learners)))


def best_diloco(folder: ResultFolder, num_learners: int) -> Trial:
    """Synchronous DiLoCo at M, tuned."""
    return to_test(best(folder, sweep_diloco(folder, num_learners)))


def to_test(trial: Trial) -> Trial:
    """The trial, judged on text that nothing was chosen on."""
    return replace(trial, training=replace(trial.training, judged_on="test"))


# ---------------------------------------------------------------- stage 2


def headline(folder: ResultFolder) -> Table:
    """Data-parallel, decoupled and synchronous DiLoCo."""
    together = best_together(folder)
    rows = {"data-parallel": together}
    for count in (4, 8):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
        rows[f"DiLoCo, M = {count}"] = best_diloco(folder, count)
    rows["local-step-1, M = 4"] = replace(together, method="local-step-1")
    rows["data-parallel, mean of the last 24 steps"] = replace(
        together, method="data-parallel-averaged"
    )
    return Table("headline", "Against tuned data-parallel training", rows, "data-parallel")


def learners(folder: ResultFolder) -> Table:
    """The other numbers of learners."""
    rows = {"data-parallel": best_together(folder)}
    for count in (2, 1, 16):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
    rows["DiLoCo, M = 2"] = best_diloco(folder, 2)
    return Table("learners", "Other numbers of learners", rows, "data-parallel")


def plain_steps() -> Trial:
    """The best without momentum at M = 4."""
    return to_test(decoupled(base(2.8e-3, 4), "rda", OUTERS["sgd 0.7"]))


def early(_: ResultFolder) -> Table:
    """Tries on the first rounds, which cost most."""
    plain = plain_steps()
    fewer, momentum = changed(plain, P=8), with_outer(plain, FAMILY_OUTER)
    rows = {"plain steps": plain}
    rows["P = 8"] = fewer
    rows["P = 8, H grows from 6"] = changed(fewer, first_H=6)
    quick = surrounded(fewer, model_transfer_s=3.0)
    rows["P = 8, links 4 times as fast"] = quick
    rows["P = 8, links 4 times as fast, H grows from 6"] = changed(quick, first_H=6)
    rows["150 data-parallel steps first"] = warmed(plain, 150)
    rows["150 data-parallel steps first, nesterov 0.7, 0.9"] = warmed(momentum, 150)
    rows["rate and momentum ramp to nesterov 0.7, 0.9 over 30 merges"] = with_outer(
        plain, replace(FAMILY_OUTER, ramp_merges=30)
    )
    return Table("early", "The first rounds, M = 4", rows, "plain steps")


def inside(folder: ResultFolder) -> Table:
    """Other optimizers inside the learners, each beside data-parallel training with the same."""
    rows: dict[str, Trial] = {}
    groups: dict[str, str] = {}
    for name, changes in INSIDE.items():
        reference = f"{name}: data-parallel"
        for kind, trial in (
            ("data-parallel", best_together(folder)),
            ("decoupled, M = 4", best_decoupled(folder, 4)),
        ):
            rows[f"{name}: {kind}"] = with_inner(trial, **changes)
            groups[f"{name}: {kind}"] = reference
    rows["adamw, moments 4 times slower: decoupled, M = 4"] = slower_moments(
        best_decoupled(folder, 4), 4
    )
    first = "adamw: data-parallel"
    return Table("inside", "Optimizers inside the learners", rows, first, groups=groups)


INSIDE: Mapping[str, Mapping[str, Any]] = {
    "adamw": {},
    "muon": {"kind": "muon"},
}


def failures(folder: ResultFolder) -> Table:
    """Interruptions at the rate of 1.2 million chips."""
    rows: dict[str, Trial] = {}
    for count in (8, 4):
        trial = best_decoupled(folder, count)
        mtbf_s = learner_mtbf_s(1_200_000, count)
        rows[f"M = {count}, none"] = trial
        rows[f"M = {count}, 1.2 million chips"] = surrounded(
            trial, faults=Faults("pause", mtbf_s, STEP_PAUSE_S)
        )
        rows[f"M = {count}, processes killed as often"] = surrounded(
            trial, faults=Faults("kill", mtbf_s, 2 * STEP_PAUSE_S)
        )
    groups = {label: "M = 4, none" for label in rows if label.startswith("M = 4")}
    return Table("failures", "Failures", rows, "M = 8, none", groups=groups)


def receipts(_: ResultFolder) -> Table:
    """What becomes of work that was not merged."""
    trial = plain_steps()
    rows = {
        "overwrite, carry": trial,
        "overwrite, drop (published)": changed(trial, unmerged="drop"),
        "keep, carry": changed(trial, receipt="keep"),
        "keep, drop": changed(trial, receipt="keep", unmerged="drop"),
        "alpha 0.5, carry": changed(trial, receipt="alpha"),
    }
    title = "Receipt rules, M = 4, plain steps, no stragglers"
    return Table("receipts", title, rows, "overwrite, carry")


def codecs(folder: ResultFolder) -> Table:
    """What travels."""
    trial = best_decoupled(folder, 4)
    rows = {
        f"{codec} up and down": replace(
            trial,
            training=replace(
                trial.training,
                uplink=codec,
                merge=replace(trial.training.merge, downlink_codec=codec),
            ),
        )
        for codec in ("bf16", "int8", "int4")
    }
    return Table("codecs", "Codecs, M = 4", rows, "bf16 up and down")


def mixed(folder: ResultFolder) -> Table:
    """Half of the learners 20 % slower."""
    trial = surrounded(best_decoupled(folder, 4), slow_share=0.5, slow_factor=1.2)
    rows = {
        "K = 1 with grace and token share": trial,
        "K = 1 without either": changed(trial, gamma=0.01, min_token_share=0.0),
        "K = all": changed(trial, K="all"),
        "K = 1 with grace, drop": changed(trial, unmerged="drop"),
        "K = 1 with grace, keep": changed(trial, receipt="keep"),
        "all alike": best_decoupled(folder, 4),
    }
    return Table("mixed", "Half of the learners 20 % slower, M = 4", rows, "all alike")


def rules(folder: ResultFolder) -> Table:
    """RDA against the mean, each with its own best outer optimizer."""
    rows: dict[str, Trial] = {}
    for count in (4, 8):
        table = sweep(folder, count)
        for rule in ("rda", "mean"):
            some = {k: t for k, t in table.rows.items() if k.startswith(rule)}
            rows[f"M = {count}, {rule}"] = to_test(best(folder, replace(table, rows=some)))
    groups = {label: "M = 8, rda" for label in rows if label.startswith("M = 8")}
    title = "RDA against the mean, each with its best outer optimizer"
    return Table("rules", title, rows, "M = 4, rda", groups=groups)


def periods(folder: ResultFolder) -> Table:
    """H, tau and the number of fragments."""
    trial = best_decoupled(folder, 4)
    short = surrounded(changed(trial, P=6, H=6), model_transfer_s=0.1, delay_s=0.001)
    rows = {
        "P = 24, H = 24": trial,
        "P = 24, H = 48": changed(trial, H=48),
        "P = 6, H = 24": changed(trial, P=6),
        "tau = 6": changed(trial, tau=6),
        "P = 6, H = 6, links of a LAN": short,
        "P = 6, H = 6, links of a LAN, tau = 1": changed(short, tau=1),
    }
    return Table("periods", "H, tau and fragments, M = 4", rows, "P = 24, H = 24")


def sizes(folder: ResultFolder) -> Table:
    """One trend: 20 tokens per parameter would be more than there is data; these have six."""
    rows: dict[str, Trial] = {}
    for preset, tokens in (("tiny", 660_000), ("micro", 2_048_000), ("small", 5_900_000)):
        for label, trial in (
            ("data-parallel", best_together(folder)),
            ("decoupled, M = 4", best_decoupled(folder, 4)),
        ):
            train = replace(
                trial.training.train,
                model=ModelSettings.preset(preset, context=128),
                budget_tokens=tokens,
            )
            training = replace(trial.training, train=train)
            rows[f"{preset}: {label}"] = replace(trial, training=training)
    groups = {label: f"{label.partition(':')[0]}: data-parallel" for label in rows}
    title = "Three sizes at six tokens per parameter"
    return Table("sizes", title, rows, "micro: data-parallel", groups=groups)


def lengths(folder: ResultFolder) -> Table:
    """The other trend: the same H is a smaller share of a longer run."""
    rows: dict[str, Trial] = {}
    for times in (1, 2, 4):
        for label, trial in (
            ("data-parallel", best_together(folder)),
            ("decoupled, M = 4", plain_steps()),
        ):
            train = trial.training.train
            longer = replace(train, budget_tokens=times * train.budget_tokens)
            training = replace(trial.training, train=longer)
            rows[f"{times * NUM_STEPS:,} steps: {label}"] = replace(trial, training=training)
    groups = {label: f"{label.partition(':')[0]}: data-parallel" for label in rows}
    first = f"{NUM_STEPS:,} steps: data-parallel"
    return Table("lengths", "Longer runs, M = 4, plain steps", rows, first, groups=groups)


def changed(trial: Trial, **changes: Any) -> Trial:
    """The trial under other rules of the protocol."""
    return replace(trial, training=with_protocol(trial.training, **changes))


def with_inner(trial: Trial, **changes: Any) -> Trial:
    """The trial with another optimizer inside the learners."""
    training = trial.training
    optimizer = replace(training.train.optimizer, **changes)
    train = replace(training.train, optimizer=optimizer)
    return replace(trial, training=replace(training, train=train))


def slower_moments(trial: Trial, times: int) -> Trial:
    """AdamW's moments over so many times more steps: over as many tokens as with one learner."""
    optimizer = trial.training.train.optimizer
    beta1, beta2 = 1 - (1 - optimizer.beta1) / times, 1 - (1 - optimizer.beta2) / times
    return with_inner(trial, beta1=beta1, beta2=beta2)


def warmed(trial: Trial, steps: int) -> Trial:
    """The trial from where so many data-parallel steps lead."""
    return replace(trial, training=replace(trial.training, warm_steps=steps))


def faster(trial: Trial, steps: int) -> Trial:
    """P = H = `steps`, on links on which a fragment takes the same share of a round as with 24."""
    transfer_s = trial.training.surroundings.model_transfer_s * (steps / 24) ** 2
    return surrounded(changed(trial, P=steps, H=steps), model_transfer_s=transfer_s)


def with_outer(trial: Trial, outer: OuterSettings) -> Trial:
    """The trial with another outer optimizer."""
    merge = replace(trial.training.merge, outer=outer)
    return replace(trial, training=replace(trial.training, merge=merge))


def surrounded(trial: Trial, **changes: Any) -> Trial:
    """The trial in other surroundings."""
    found: Surroundings = replace(trial.training.surroundings, **changes)
    return replace(trial, training=replace(trial.training, surroundings=found))


TABLES: Mapping[str, Callable[[ResultFolder], Table]] = {
    "sweep-rate": sweep_rate,
    "first-looks": first_looks,
    "second-looks": second_looks,
    "sweep-keep-4": sweep_keep,
    **{f"sweep-{M}": functools.partial(sweep, num_learners=M) for M in DECOUPLED_GRID},
    **{f"sweep-diloco-{M}": functools.partial(sweep_diloco, num_learners=M) for M in DILOCO_GRID},
    "sweep-ramps": ramps,
    "headline": headline,
    "learners": learners,
    "early": early,
    "inside": inside,
    "failures": failures,
    "receipts": receipts,
    "codecs": codecs,
    "mixed": mixed,
    "rules": rules,
    "periods": periods,
    "sizes": sizes,
    "lengths": lengths,
}

QUEUE: Sequence[tuple[str, int]] = (
    ("sweep-rate", 2),
    ("first-looks", 1),
    *((f"sweep-{M}", 1) for M in DECOUPLED_GRID),
    *((f"sweep-diloco-{M}", 1) for M in DILOCO_GRID),
    ("headline", 2),
    ("failures", 1),
    ("early", 2),
    ("inside", 2),
    ("receipts", 2),
    ("codecs", 2),
    ("mixed", 2),
    ("failures", 2),
    ("learners", 2),
    ("periods", 2),
    ("rules", 2),
    ("lengths", 2),
    ("sizes", 2),
    *((name, 5) for name in ("headline", "failures", "codecs", "mixed", "receipts", "early")),
)
"""Tables by priority: each is brought to so many seeds before the next begins."""


def names(tables: Iterable[str]) -> str:
    """For messages."""
    return ", ".join(tables)
