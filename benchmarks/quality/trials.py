"""The one configuration that all tables of the quality study vary, and the ways they vary it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atoll.compare.methods import FAMILY_OUTER, STREAMING_OUTER, with_merge, with_protocol
from atoll.compare.trial import Trial
from atoll.core.settings import ProtocolSettings
from atoll.merge.averaging import AveragingSettings, Rule
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.simulator.training import Surroundings, TrainingSettings
from atoll.train.settings import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    StepSettings,
    TrainSettings,
)

NUM_STEPS = 1000
BATCH_SIZE = 16
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
    "ramp to nesterov 1.0, 0.9": replace(FAMILY_OUTER, lr=1.0, ramp_merges=30),
    "ramp to nesterov 0.5, 0.9": replace(FAMILY_OUTER, lr=0.5, ramp_merges=30),
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
    protocol, merge = (
        ProtocolSettings(M=num_learners),
        MergeSettings(AveragingSettings("rda"), FAMILY_OUTER),
    )
    return TrainingSettings(train, protocol, merge, judged_on="tuning")


def keeping(settings: TrainingSettings) -> TrainingSettings:
    """Under the receipt rule that loses no work."""
    return with_protocol(settings, receipt="keep")


def decoupled(settings: TrainingSettings, rule: Rule, outer: OuterSettings) -> Trial:
    """The decoupled method with a merge rule and an outer optimizer."""
    return Trial("decoupled", with_merge(settings, rule, outer))


def to_test(trial: Trial) -> Trial:
    """The trial, judged on text that nothing was chosen on."""
    return replace(trial, training=replace(trial.training, judged_on="test"))


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
