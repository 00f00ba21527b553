"""Stage 2 of the quality study: its tables.

They take the best of the sweeps by reading the stored results; without those they refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeps import (
    DECOUPLED_GRID,
    DILOCO_GRID,
    SWEEPS,
    best_decoupled,
    best_diloco,
    best_rate,
    best_together,
)
from table import Table
from trials import (
    NUM_STEPS,
    OUTERS,
    STEP_PAUSE_S,
    base,
    changed,
    decoupled,
    slower_moments,
    surrounded,
    to_test,
    warmed,
    with_inner,
    with_outer,
)

from atoll.compare.methods import FAMILY_OUTER
from atoll.compare.store import ResultFolder
from atoll.compare.trial import Trial
from atoll.merge.averaging import Rule
from atoll.merge.outer import RAMP_STEPS
from atoll.simulator.training_faults import Faults, learner_mtbf_s
from atoll.train.settings import ModelSettings

AVERAGED = "data-parallel, mean of the last 24 steps"


def headline(folder: ResultFolder) -> Table:
    """Data-parallel, decoupled and synchronous DiLoCo."""
    together = best_together(folder)
    rows = {"data-parallel": together}
    for count in (2, 4, 8):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
        rows[f"DiLoCo, M = {count}"] = best_diloco(folder, count)
    rows["local-step-1, M = 4"] = replace(together, method="local-step-1")
    rows[AVERAGED] = replace(together, method="data-parallel-averaged")
    return Table("headline", "Against tuned data-parallel training", rows, "data-parallel")


def learners(folder: ResultFolder) -> Table:
    """The other numbers of learners."""
    rows = {"data-parallel": best_together(folder)}
    for count in (1, 16):
        rows[f"decoupled, M = {count}"] = best_decoupled(folder, count)
    return Table("learners", "Other numbers of learners", rows, "data-parallel")


def plain_steps() -> Trial:
    """The best without momentum at M = 4."""
    return to_test(decoupled(base(2.8e-3, 4), "rda", OUTERS["sgd 0.7"]))


def early(folder: ResultFolder) -> Table:
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
    ramp = surrounded(changed(best_decoupled(folder, 4), P=8), model_transfer_s=3.0)
    rows["tuned with a ramp, P = 8, links 4 times as fast"] = ramp
    grows = changed(ramp, first_H=6)
    merges = grows.training.protocol.rounds_within(RAMP_STEPS)
    rows["tuned with a ramp, P = 8, links 4 times as fast, H grows from 6"] = with_outer(
        grows, replace(ramp.training.merge.outer, ramp_merges=merges)
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


RULES: Sequence[Rule] = ("rda", "mean")
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


def receipts(folder: ResultFolder) -> Table:
    """What becomes of work that was not merged."""
    trial = best_decoupled(folder, 4)
    rows = {
        "overwrite, carry": trial,
        "overwrite, drop (published)": changed(trial, unmerged="drop"),
        "keep, carry": changed(trial, receipt="keep"),
        "keep, drop": changed(trial, receipt="keep", unmerged="drop"),
        "alpha 0.5, carry": changed(trial, receipt="alpha"),
    }
    title = "Receipt rules, M = 4, no stragglers"
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
    """RDA against the mean, each tuned, and each at the rate that data-parallel training has."""
    rows: dict[str, Trial] = {}
    groups: dict[str, str] = {}
    rate = best_rate(folder)
    ramp = OUTERS["ramp to nesterov 0.7, 0.9"]
    for count in (4, 8):
        for rule in RULES:
            rows[f"M = {count}, {rule}"] = best_decoupled(folder, count, rule)
            groups[f"M = {count}, {rule}"] = f"M = {count}, rda"
        for rule in RULES:
            label = f"M = {count}, {rule}, inner rate of data-parallel"
            rows[label] = to_test(decoupled(base(rate, count), rule, ramp))
            groups[label] = f"M = {count}, rda, inner rate of data-parallel"
    return Table("rules", "RDA against the mean", rows, "M = 4, rda", groups=groups)


def periods(folder: ResultFolder) -> Table:
    """H, tau and the number of fragments."""
    trial = best_decoupled(folder, 4)
    outer = trial.training.merge.outer
    short = surrounded(changed(trial, P=6, H=6), model_transfer_s=0.1, delay_s=0.001)
    rows = {
        "P = 24, H = 24": trial,
        "P = 24, H = 48": changed(trial, H=48),
        "P = 24, H = 48, ramp over 15 merges": with_outer(
            changed(trial, H=48), replace(outer, ramp_merges=15)
        ),
        "P = 6, H = 24": changed(trial, P=6),
        "tau = 6": changed(trial, tau=6),
        "P = 6, H = 6, links of a LAN": short,
        "P = 6, H = 6, links of a LAN, ramp over 120 merges": with_outer(
            short, replace(outer, ramp_merges=120)
        ),
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
            ("decoupled, M = 4", best_decoupled(folder, 4)),
            ("decoupled, M = 4, rda", best_decoupled(folder, 4, "rda")),
            ("decoupled, M = 4, plain steps", plain_steps()),
        ):
            train = trial.training.train
            longer = replace(train, budget_tokens=times * train.budget_tokens)
            training = replace(trial.training, train=longer)
            rows[f"{times * NUM_STEPS:,} steps: {label}"] = replace(trial, training=training)
    groups = {label: f"{label.partition(':')[0]}: data-parallel" for label in rows}
    first = f"{NUM_STEPS:,} steps: data-parallel"
    return Table("lengths", "Longer runs, M = 4", rows, first, groups=groups)


TABLES: Mapping[str, Callable[[ResultFolder], Table]] = {
    **SWEEPS,
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
