"""The configuration that methods are compared on: from a run file, or a small one of our own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from atoll.core.settings import ProtocolSettings, SettingsError
from atoll.runfile.settings import read_run_file
from atoll.simulator.training import Surroundings, TrainingSettings
from atoll.train.settings import ModelSettings, TrainSettings

OUR_BATCH = 16
OUR_H = 16
NUM_EVALUATION_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line changes; 0 and None leave it as it is."""

    learners: int = 0
    tokens: int = 0
    seed: int | None = None


def configuration(
    run_file: Path | None, wishes: Wishes, surroundings: Surroundings
) -> TrainingSettings:
    """The run of a file, or of the model preset `tiny`, in virtual time."""
    found = _ours(wishes) if run_file is None else _theirs(run_file, wishes)
    train = replace(found.train, num_evaluation_batches=NUM_EVALUATION_BATCHES)
    if wishes.tokens:
        train = replace(train, budget_tokens=wishes.tokens)
    if wishes.seed is not None:
        train = replace(train, seed=wishes.seed)
    return replace(found, train=train, surroundings=surroundings)


def _theirs(run_file: Path, wishes: Wishes) -> TrainingSettings:
    """A run file's learners each have their own batch; here the batch is that of all together."""
    run = read_run_file(run_file)
    syncer = run.syncer
    num_learners = wishes.learners or syncer.protocol.M
    batch_size = run.train.batch_size * syncer.protocol.M
    train = replace(run.train, batch_size=_divisible(batch_size, num_learners), device="cpu")
    protocol = replace(syncer.protocol, M=num_learners)
    return TrainingSettings(train, protocol, syncer.merge, syncer.uplink)


def _ours(wishes: Wishes) -> TrainingSettings:
    num_learners = wishes.learners or 4
    batch_size = _divisible(OUR_BATCH, num_learners)
    train = TrainSettings(
        model=ModelSettings.preset("tiny"), batch_size=batch_size, budget_tokens=500_000
    )
    return TrainingSettings(train, ProtocolSettings(M=num_learners, P=OUR_H, H=OUR_H))


def _divisible(batch_size: int, num_learners: int) -> int:
    """The batch of all learners together stays what it is, so it must divide among them."""
    if batch_size % num_learners:
        raise SettingsError(
            f"{num_learners} learners cannot share a batch of {batch_size} equally: choose a "
            "number of learners that divides it, or another train.batch_size"
        )
    return batch_size
