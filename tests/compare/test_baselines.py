"""The methods in which everybody waits, against ordinary training and against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atoll.compare.baselines import (
    Together,
    data_parallel,
    data_parallel_averaged,
    diloco,
    local_step_1,
)
from atoll.compare.pace import Pace
from atoll.simulator.training import Surroundings, TrainingResult
from atoll.simulator.training_faults import Faults
from atoll.train.data import load_batch
from atoll.train.model import build_model
from tiny_training import alone, settings, sources


def last(looks_and_result: object) -> TrainingResult:
    *_, result = looks_and_result  # type: ignore[misc]
    assert isinstance(result, TrainingResult)
    return result


def test_data_parallel_is_one_process_with_the_whole_batch() -> None:
    run = settings(4)
    assert last(data_parallel(run, sources())).loss == pytest.approx(alone(run), rel=1e-6)


def test_averaged_gradients_of_equal_parts_are_those_of_the_whole_batch() -> None:
    run = settings(4)
    together = Together(run, sources(), 4)
    grads = []
    for lane in together.lanes:
        model = build_model(run.train.model, 0)
        batch = load_batch(sources().train, lane.indices(together.order, together.numbers))
        model(batch.inputs, batch.targets)[1].backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    model = build_model(run.train.model, 0)
    whole = load_batch(sources().train, [together.order.at(place) for place in range(8)])
    model(whole.inputs, whole.targets)[1].backward()
    for parameter, *parts in zip(model.parameters(), *grads, strict=True):
        assert torch.allclose(parameter.grad, torch.stack(parts).mean(dim=0), atol=1e-6)


def test_local_step_1_with_one_learner_is_data_parallel() -> None:
    run = settings(1)
    assert last(local_step_1(run, sources())).loss == last(data_parallel(run, sources())).loss


def test_local_step_1_leaves_all_models_equal() -> None:
    run = settings(4)
    found = last(local_step_1(run, sources()))
    assert found.loss == pytest.approx(alone(run), rel=0.1)
    assert found.merges == run.train.num_steps


def test_diloco_with_one_learner_and_plain_sgd_is_ordinary_training() -> None:
    run = settings(1)
    assert last(diloco(run, sources())).loss == pytest.approx(alone(run), rel=1e-4)


def test_waiting_for_everybody_takes_the_slowest_learners_time() -> None:
    around = Surroundings(slow_share=0.5, slow_factor=2.0, step_jitter=0.0)
    pace = Pace(replace(settings(4), surroundings=around))
    pace.steps(10)
    assert pace.now_s == pytest.approx(20.0)


def test_an_interruption_of_one_learner_holds_everybody_up() -> None:
    faults = Faults("kill", 50.0, 10.0)
    calm, struck = (
        Pace(replace(settings(4), surroundings=Surroundings(faults=each)))
        for each in (Faults(), faults)
    )
    for _ in range(200):
        calm.steps(1)
        struck.steps(1)
    assert struck.interruptions > 0
    assert struck.now_s > calm.now_s + 9.0


def test_averaged_weights_are_the_mean_of_the_last_steps() -> None:
    run = settings(1, P=4, H=4)
    once = last(
        data_parallel_averaged(replace(run, protocol=replace(run.protocol, H=1, P=1)), sources())
    )
    assert once.loss == last(data_parallel(run, sources())).loss
    assert last(data_parallel_averaged(run, sources())).loss != once.loss


def test_bytes_of_methods_that_wait() -> None:
    run = settings(4)
    params = build_model(run.train.model, 0).num_params
    steps, rounds = run.train.num_steps, run.train.num_steps // run.protocol.H
    assert last(data_parallel(run, sources())).up_bytes == 4 * steps * round(1.5 * 2 * params)
    assert last(diloco(run, sources())).up_bytes == 4 * rounds * 4 * params
