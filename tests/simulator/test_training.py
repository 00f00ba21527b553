"""Training with real tensors in virtual time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from atoll.core.order import EpochOrder
from atoll.merge.averaging import AveragingSettings
from atoll.simulator.tensors import Lane, TensorPayload, TensorSettings, scheduled_step
from atoll.simulator.training import Surroundings, TrainingSettings, _Run
from atoll.simulator.training_faults import Faults, dice_of, learner_mtbf_s
from atoll.train.data import load_batch
from atoll.train.step import build_optimizer
from tiny_training import NUM_STEPS, alone, result_of, settings, sources

STEP = 1e-3


def payload_of(run: TrainingSettings) -> TensorPayload:
    numbers = TensorSettings(run.train, run.protocol.M, run.protocol.P, run.merge, run.uplink)
    return TensorPayload(numbers, sources())


@pytest.mark.parametrize("protocol", [{"P": 4}, {"P": 8}, {"P": 8, "look_ahead": 0}])
def test_one_learner_that_keeps_its_work_is_ordinary_training(protocol: dict[str, int]) -> None:
    """Also where calls come late, so that cuts hold more than H steps and are scaled down."""
    run = settings(1, **protocol)
    assert result_of(run).loss == pytest.approx(alone(run), rel=1e-4)


def test_the_same_settings_give_the_same_numbers() -> None:
    run = replace(settings(4), surroundings=Surroundings(faults=Faults("kill", 20.0, 5.0)))
    first, second = result_of(run), result_of(run)
    assert first == second
    assert first.interruptions > 0


def test_another_seed_gives_other_numbers() -> None:
    run = settings(2)
    other = replace(run, train=replace(run.train, seed=1))
    assert result_of(run).loss != result_of(other).loss


def test_learners_together_read_the_batches_of_one_process() -> None:
    run = settings(4)
    numbers = TensorSettings(run.train, 4, 8)
    order = EpochOrder(len(sources().train), 0)
    for step in (0, 7):
        dealt = [Lane(m, step).indices(order, numbers) for m in range(4)]
        assert list(itertools.chain(*dealt)) == [order.at(step * 8 + place) for place in range(8)]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        TensorSettings(settings(1).train, 3, 8)


def test_the_budget_is_spent_to_the_token() -> None:
    found = result_of(settings(2))
    assert found.trained_tokens == NUM_STEPS * 8 * 16
    assert 0.95 * found.trained_tokens < found.merged_tokens <= found.trained_tokens
    assert found.looks[-1].tokens == found.trained_tokens


def test_learners_that_are_killed_and_come_back_train_to_the_end() -> None:
    calm = settings(4)
    struck = replace(
        calm, surroundings=Surroundings(model_transfer_s=1.0, faults=Faults("kill", 15.0, 4.0))
    )
    found = result_of(struck)
    assert found.trained_tokens == calm.train.budget_tokens
    assert found.goodput < result_of(calm).goodput
    assert found.looks[-1].loss < found.looks[0].loss


def test_a_warm_start_has_data_parallel_steps_behind_it() -> None:
    run = replace(settings(2), warm_steps=6)
    numbers = TensorSettings(run.train, 2, 8, warm_steps=6)
    warm = TensorPayload(numbers, sources())
    model = payload_of(run).first.model
    optimizer = build_optimizer(model, run.train.optimizer)
    order = EpochOrder(len(sources().train), 0)
    for step in range(6):
        places = range(step * 8, (step + 1) * 8)
        batch = load_batch(sources().train, map(order.at, places))
        scheduled_step(model, optimizer, batch, run.train, (step + 1) * run.train.step_tokens)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, warm.first.model.state_dict()[name])
    assert warm.trained_tokens == run.warm_tokens
    assert result_of(run).trained_tokens == run.train.budget_tokens


def test_a_peers_moments_are_taken_over() -> None:
    run = settings(2)
    payload = payload_of(run)
    for name in ("a", "b"):
        payload.start(name)
    for _ in range(3):
        payload.step("a")
    bodies = {p: payload.lend("a", p) for p in range(run.protocol.P)}
    payload.inherit("b", bodies)
    a, b = payload.learners["a"], payload.learners["b"]
    assert b.num_steps() == 3
    for key in ("exp_avg", "exp_avg_sq"):
        ours, theirs = a.moments(key), b.moments(key)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert any(bool(tensor.any()) for tensor in theirs.values())


@pytest.mark.parametrize("transfer_s", [1.0, 4.0])
def test_parameters_move_as_far_as_the_work_that_is_merged(
    transfer_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few learners each merge has: what misses one comes with the next, once."""
    monkeypatch.setattr(TensorPayload, "step", _one_step_ahead)
    run = settings(4, P=4, H=4)
    run = replace(
        run,
        train=replace(run.train, budget_tokens=4 * run.train.budget_tokens),
        merge=replace(run.merge, averaging=AveragingSettings(rule="mean")),
        surroundings=replace(run.surroundings, model_transfer_s=transfer_s),
    )
    training = _Run(run, sources())
    first = [each.clone() for each in training.payload.first.model.parameters()]
    training.finish()
    last = list(training.payload.published().parameters())
    moved = sum(float((b - a).detach().sum()) for a, b in zip(first, last, strict=True))
    steps = moved / STEP / sum(each.numel() for each in first)
    merged = training.payload.merged_tokens() / run.train.step_tokens
    tally = training.world.shards[0].core.state.tally
    assert tally.learners_merged < 0.8 * tally.learners_live, "merges of a part of them"
    assert steps == pytest.approx(merged, rel=0.02)


def _one_step_ahead(self: TensorPayload, learner: str) -> int:
    """A step that moves every parameter by the same length."""
    me, share = self.learners[learner], self.settings.train.step_tokens // 4
    if self.trained_tokens >= self.settings.train.budget_tokens:
        me.idle_tokens += share
        return share
    self.trained_tokens += share
    with torch.no_grad():
        for tensor in me.tensors.values():
            tensor.add_(STEP)
    return share


def test_a_diverging_run_ends_with_the_reason() -> None:
    run = settings(2)
    optimizer = replace(run.train.optimizer, learning_rate=1e30, warmup_share=0.0)
    step = replace(run.train.step, clip_norm=float("inf"))
    found = result_of(replace(run, train=replace(run.train, optimizer=optimizer, step=step)))
    assert found.diverged
    assert found.loss == float("inf")


def test_interruptions_depend_on_seed_and_name_alone() -> None:
    faults = Faults("pause", 100.0, 10.0)
    first = faults.pauses(dice_of(3, "island-0"), 1000.0)
    assert first == faults.pauses(dice_of(3, "island-0"), 1000.0)
    assert first != faults.pauses(dice_of(3, "island-1"), 1000.0)
    assert Faults().pauses(dice_of(3, "island-0"), 1000.0) == []


def test_an_island_of_many_chips_is_interrupted_often() -> None:
    assert learner_mtbf_s(1_200_000, 8) == pytest.approx(210.4, abs=0.1)
