"""The tables of the quality study: which trials stand in which row.

Stage 1 are the sweeps, on seeds of their own, so that what is chosen from them is not measured on
the seeds it was chosen on. Stage 2 are the tables, which take the best of the sweeps by reading the
stored results; without those they refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atoll.compare.methods import FAMILY_OUTER, STREAMING_OUTER, with_merge, with_protocol
from atoll.compare.statistics import mean
from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.core.settings import ProtocolSettings
from atoll.merge.outer import OuterSettings
from atoll.simulator.training import Surroundings, TrainingSettings
from atoll.simulator.training_faults import Faults, learner_mtbf_s
from atoll.train.settings import DataSettings, ModelSettings, OptimizerSettings, TrainSettings

NUM_STEPS = 1000
BATCH_SIZE = 16
SWEEP_SEEDS = (100, 101)
STEP_PAUSE_S = 12.0

SGD = OuterSettings("sgd", lr=1.0)
OUTERS: Mapping[str, OuterSettings] = {
    "sgd 1.0": SGD,
    "sgd 0.7": OuterSettings("sgd", lr=0.7),
    "nesterov 1.0, 0.5": OuterSettings("nesterov", lr=1.0, momentum=0.5),
    "nesterov 0.7, 0.5": OuterSettings("nesterov", lr=0.7, momentum=0.5),
    "nesterov 0.4, 0.5": OuterSettings("nesterov", lr=0.4, momentum=0.5),
    "nesterov 0.4, 0.8": OuterSettings("nesterov", lr=0.4, momentum=0.8),
    "nesterov 0.7, 0.9": FAMILY_OUTER,
    "nesterov 0.4, 0.9": STREAMING_OUTER,
    "nesterov 0.2, 0.9": OuterSettings("nesterov", lr=0.2, momentum=0.9),
}


def base(learning_rate: float, num_learners: int, preset: str = "micro") -> TrainingSettings:
    """The configuration that all tables vary: 16 windows of 128 bytes a step, 1,000 steps."""
    train = TrainSettings(
        model=ModelSettings.preset(preset, context=128),
        data=DataSettings(max_megabytes=12.0),
        optimizer=OptimizerSettings(learning_rate=learning_rate),
        batch_size=BATCH_SIZE,
        budget_tokens=NUM_STEPS * BATCH_SIZE * 128,
        num_evaluation_batches=20,
    )
    return TrainingSettings(train, ProtocolSettings(M=num_learners))


@dataclass(frozen=True)
class Table:
    """Rows by label; differences are to the row `reference`."""

    name: str
    title: str
    rows: Mapping[str, Trial]
    reference: str
    seeds: Sequence[int] = ()
    notes: Sequence[str] = field(default_factory=tuple)

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


RATES = (1e-3, 2e-3, 4e-3)


def sweep_rate(_: ResultFolder) -> Table:
    """The inner learning rate of the data-parallel baseline."""
    rows = {f"lr {rate:g}": Trial("data-parallel", base(rate, 4)) for rate in RATES}
    return _sweep("sweep-rate", "Data-parallel: inner learning rate", rows)


RDA_OUTERS: Mapping[int, Sequence[str]] = {
    2: ("sgd 1.0", "nesterov 0.7, 0.5", "nesterov 0.4, 0.9"),
    4: ("sgd 1.0", "nesterov 0.7, 0.5", "nesterov 0.4, 0.9"),
    8: ("sgd 1.0", "nesterov 0.4, 0.5", "nesterov 0.2, 0.9"),
}
MEAN_OUTERS = ("nesterov 1.0, 0.5", "nesterov 0.7, 0.9")
FACTORS = (0.5, 1.0, 2.0)


def sweep_inner(folder: ResultFolder, num_learners: int) -> Table:
    """The inner learning rate under the decoupled method, with plain outer averaging."""
    rate = best_rate(folder)
    found = decoupled(base(rate, num_learners), "rda", SGD)
    title = f"Decoupled, M = {num_learners}: inner learning rate"
    return _sweep(f"sweep-inner-{num_learners}", title, _rates(found, rate, FACTORS))


def sweep_outer(folder: ResultFolder, num_learners: int) -> Table:
    """Merge rule and outer optimizer of the decoupled method."""
    settings = best(folder, sweep_inner(folder, num_learners)).training
    rows = {f"rda, {n}": decoupled(settings, "rda", OUTERS[n]) for n in RDA_OUTERS[num_learners]}
    rows |= {f"mean, {n}": decoupled(settings, "mean", OUTERS[n]) for n in MEAN_OUTERS}
    title = f"Decoupled, M = {num_learners}: merge rule and outer optimizer"
    return _sweep(f"sweep-outer-{num_learners}", title, rows)


def sweep_diloco(folder: ResultFolder, num_learners: int) -> Table:
    """Merge rule and outer optimizer of synchronous DiLoCo."""
    settings = best(folder, sweep_inner(folder, num_learners)).training
    rows = {
        f"mean, {n}": Trial("diloco", with_merge(settings, "mean", OUTERS[n])) for n in MEAN_OUTERS
    }
    rows["rda, sgd 1.0"] = Trial("diloco", with_merge(settings, "rda", SGD))
    title = f"Synchronous DiLoCo, M = {num_learners}: merge rule and outer optimizer"
    return _sweep(f"sweep-diloco-{num_learners}", title, rows)


def sweep_diloco_inner(folder: ResultFolder, num_learners: int) -> Table:
    """The inner learning rate under synchronous DiLoCo, beside that of the decoupled method."""
    found = best(folder, sweep_diloco(folder, num_learners))
    rate = found.training.train.optimizer.learning_rate
    title = f"Synchronous DiLoCo, M = {num_learners}: inner learning rate"
    rows = _rates(found, rate, (1.0, 0.5))
    return _sweep(f"sweep-diloco-inner-{num_learners}", title, rows)


def _rates(trial: Trial, rate: float, factors: Sequence[float]) -> dict[str, Trial]:
    return {f"lr {each * rate:g}": _at_rate(trial, each * rate) for each in factors}


def _sweep(name: str, title: str, rows: Mapping[str, Trial]) -> Table:
    return Table(name, title, rows, next(iter(rows)), SWEEP_SEEDS)


def _at_rate(trial: Trial, rate: float) -> Trial:
    training = trial.training
    optimizer = replace(training.train.optimizer, learning_rate=rate)
    return replace(
        trial, training=replace(training, train=replace(training.train, optimizer=optimizer))
    )


def decoupled(settings: TrainingSettings, rule: str, outer: OuterSettings) -> Trial:
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


def best_decoupled(folder: ResultFolder, num_learners: int) -> Trial:
    """The decoupled method at M, tuned. M = 1 needs no outer optimizer; 16 takes what 8 has."""
    if num_learners == 1:
        return decoupled(base(best_rate(folder), 1), "rda", SGD)
    found = best(folder, sweep_outer(folder, min(num_learners, 8)))
    return replace(found, training=with_protocol(found.training, M=num_learners))


def best_diloco(folder: ResultFolder, num_learners: int) -> Trial:
    """Synchronous DiLoCo at M, tuned."""
    return best(folder, sweep_diloco_inner(folder, num_learners))


# ---------------------------------------------------------------- stage 2


def headline(folder: ResultFolder) -> Table:
    """Data-parallel, decoupled and synchronous DiLoCo."""
    together = Trial("data-parallel", base(best_rate(folder), 4))
    rows = {"data-parallel": together}
    for count in (4, 8):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
        rows[f"DiLoCo, M = {count}"] = best_diloco(folder, count)
    rows["local-step-1, M = 4"] = replace(together, method="local-step-1")
    return Table("headline", "Against tuned data-parallel training", rows, "data-parallel")


def learners(folder: ResultFolder) -> Table:
    """The other numbers of learners."""
    rows = {"data-parallel": Trial("data-parallel", base(best_rate(folder), 4))}
    for count in (2, 1, 16):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
    rows["DiLoCo, M = 2"] = best_diloco(folder, 2)
    return Table("learners", "Other numbers of learners", rows, "data-parallel")


def early(folder: ResultFolder) -> Table:
    """Tries on the first rounds, which cost most."""
    best_4 = best_decoupled(folder, 4)
    outer = best_4.training.merge.outer
    rows = {"as it is": best_4}
    for merges in (5, 15):
        rows[f"rate and momentum ramp over {merges} merges"] = with_outer(
            best_4, replace(outer, ramp_merges=merges)
        )
    rows["rate ramps from 0.3 over 5 merges"] = with_outer(
        best_4, replace(outer, ramp_merges=5, first_lr=0.3)
    )
    for steps in (50, 150):
        training = replace(best_4.training, warm_steps=steps)
        rows[f"{steps} data-parallel steps first"] = replace(best_4, training=training)
    rows["P = H = 12"] = changed(best_4, P=12, H=12)
    return Table("early", "The first rounds, M = 4", rows, "as it is")


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
    return Table("failures", "Failures", rows, "M = 8, none")


def receipts(folder: ResultFolder) -> Table:
    """What becomes of work that was not merged."""
    trial = best_decoupled(folder, 4)
    rows = {
        "keep, carry": trial,
        "overwrite, drop (published)": changed(trial, receipt="overwrite", unmerged="drop"),
        "overwrite, carry": changed(trial, receipt="overwrite"),
        "keep, drop": changed(trial, unmerged="drop"),
        "alpha 0.5, carry": changed(trial, receipt="alpha"),
    }
    return Table("receipts", "Receipt rules, M = 4, no stragglers", rows, "keep, carry")


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
        "all alike": best_decoupled(folder, 4),
    }
    return Table("mixed", "Half of the learners 20 % slower, M = 4", rows, "all alike")


def rules(folder: ResultFolder) -> Table:
    """RDA against the mean, each with its own best outer optimizer."""
    rows: dict[str, Trial] = {}
    for count in (4, 8):
        table = sweep_outer(folder, count)
        for rule in ("rda", "mean"):
            some = {k: t for k, t in table.rows.items() if k.startswith(rule)}
            rows[f"M = {count}, {rule}"] = best(folder, replace(table, rows=some))
    return Table("rules", "RDA against the mean, each tuned", rows, "M = 4, rda")


def periods(folder: ResultFolder) -> Table:
    """H, tau and the number of fragments."""
    trial = best_decoupled(folder, 4)
    rows = {
        "P = 24, H = 24": trial,
        "P = 24, H = 48": changed(trial, H=48),
        "P = 12, H = 12": changed(trial, P=12, H=12),
        "P = 6, H = 24": changed(trial, P=6),
        "P = 1, H = 24": changed(trial, P=1),
        "tau = 4": changed(trial, tau=4),
    }
    return Table("periods", "H, tau and fragments, M = 4", rows, "P = 24, H = 24")


def sizes(folder: ResultFolder) -> Table:
    """One trend: 20 tokens per parameter would be more than there is data; these have six."""
    rows: dict[str, Trial] = {}
    for preset, tokens in (("tiny", 660_000), ("micro", 2_048_000), ("small", 5_900_000)):
        for label, trial in (
            ("data-parallel", Trial("data-parallel", base(best_rate(folder), 4))),
            ("decoupled, M = 4", best_decoupled(folder, 4)),
        ):
            train = replace(
                trial.training.train,
                model=ModelSettings.preset(preset, context=128),
                budget_tokens=tokens,
            )
            training = replace(trial.training, train=train)
            rows[f"{preset}: {label}"] = replace(trial, training=training)
    return Table("sizes", "Three sizes at six tokens per parameter", rows, "micro: data-parallel")


def changed(trial: Trial, **changes: Any) -> Trial:
    """The trial under other rules of the protocol."""
    return replace(trial, training=with_protocol(trial.training, **changes))


def with_outer(trial: Trial, outer: OuterSettings) -> Trial:
    """The trial with another outer optimizer."""
    merge = replace(trial.training.merge, outer=outer)
    return replace(trial, training=replace(trial.training, merge=merge))


def surrounded(trial: Trial, **changes: Any) -> Trial:
    """The trial in other surroundings."""
    found: Surroundings = replace(trial.training.surroundings, **changes)
    return replace(trial, training=replace(trial.training, surroundings=found))


def _sweeps_over_learners() -> dict[str, Callable[[ResultFolder], Table]]:
    """Sweeps by name; what is swept, then M."""
    kinds = {
        "inner": sweep_inner,
        "outer": sweep_outer,
        "diloco": sweep_diloco,
        "diloco-inner": sweep_diloco_inner,
    }
    return {
        f"sweep-{kind}-{count}": functools.partial(make, num_learners=count)
        for kind, make in kinds.items()
        for count in (4, 8, 2)
    }


TABLES: Mapping[str, Callable[[ResultFolder], Table]] = {
    "sweep-rate": sweep_rate,
    **_sweeps_over_learners(),
    "headline": headline,
    "learners": learners,
    "early": early,
    "failures": failures,
    "receipts": receipts,
    "codecs": codecs,
    "mixed": mixed,
    "rules": rules,
    "periods": periods,
    "sizes": sizes,
}

SWEPT = ("inner", "outer", "diloco", "diloco-inner")
QUEUE: Sequence[tuple[str, int]] = (
    ("sweep-rate", 1),
    *((f"sweep-{kind}-4", 1) for kind in SWEPT),
    *((f"sweep-{kind}-8", 1) for kind in SWEPT),
    ("headline", 2),
    ("failures", 1),
    ("early", 2),
    ("receipts", 2),
    ("codecs", 2),
    ("mixed", 2),
    ("failures", 2),
    *((f"sweep-{kind}-2", 1) for kind in SWEPT),
    ("learners", 2),
    ("periods", 2),
    ("rules", 2),
    ("sizes", 2),
    *((name, 5) for name in ("headline", "failures", "codecs", "mixed", "receipts", "early")),
)
"""Tables by priority: each is brought to so many seeds before the next begins."""


def names(tables: Iterable[str]) -> str:
    """For messages."""
    return ", ".join(tables)
