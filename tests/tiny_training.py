"""A training run small enough for a test: a model of a few thousand parameters, a few steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from atoll.core.settings import ProtocolSettings
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.simulator.training import (
    Look,
    Surroundings,
    TrainingResult,
    TrainingSettings,
    simulate_training,
)
from atoll.train.data import Sources
from atoll.train.loop import EvaluationRecord, train_alone
from atoll.train.model import build_model
from atoll.train.settings import DataSettings, ModelSettings, TrainSettings
from atoll.train.sources import load_sources

CONTEXT = 16
NUM_STEPS = 48


def settings(num_learners: int, **protocol: Any) -> TrainingSettings:
    """Eight windows of 16 bytes a step, P = H = 8, plain outer SGD, fp32 both ways."""
    train = TrainSettings(
        model=ModelSettings(dim=16, num_layers=1, num_heads=1, context=CONTEXT),
        data=DataSettings(max_megabytes=0.2),
        batch_size=8,
        budget_tokens=NUM_STEPS * 8 * CONTEXT,
        num_evaluation_batches=8,
    )
    return TrainingSettings(
        train,
        ProtocolSettings(**{"M": num_learners, "P": 8, "H": 8, "receipt": "keep", **protocol}),
        MergeSettings(outer=OuterSettings("sgd", lr=1.0), downlink_codec="fp32"),
        uplink="fp32",
        surroundings=Surroundings(model_transfer_s=1.0),
        num_looks=2,
    )


@cache
def sources() -> Sources:
    """The data, read once."""
    return load_sources(settings(1).train.data, CONTEXT, 256)


def result_of(run: TrainingSettings) -> TrainingResult:
    """The result of a simulated run."""
    *looks, result = simulate_training(run, sources())
    assert all(isinstance(each, Look) for each in looks)
    assert isinstance(result, TrainingResult)
    return result


def alone(run: TrainingSettings) -> float:
    """The final loss of one process that trains on all batches, over every held-out window."""
    train = replace(run.train, num_evaluation_batches=len(sources().held_out))
    records = list(train_alone(train, build_model(train.model, train.seed), sources()))
    last = records[-1]
    assert isinstance(last, EvaluationRecord)
    return last.loss
