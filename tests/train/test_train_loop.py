"""One step, one evaluation, and the plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atoll.merge.backends import has_compiler
from atoll.train.data import Sources, Windows, load_batch
from atoll.train.loop import EvaluationRecord, StepRecord, train_alone
from atoll.train.model import build_model
from atoll.train.settings import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    StepSettings,
    TrainSettings,
)
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer, evaluate, set_learning_rate, train_step

SMALLEST = ModelSettings(dim=32, num_layers=1, num_heads=2, context=32)
SETTINGS = TrainSettings(
    model=SMALLEST, batch_size=4, budget_tokens=4 * 32 * 6, num_evaluation_batches=2
)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return load_sources(DataSettings(max_megabytes=1.0), SMALLEST.context, SMALLEST.vocab_size)


def unigram_entropy(source: object) -> float:
    """Nats per token of a model that knows only how often each byte occurs."""
    assert isinstance(source, Windows)
    counts = np.bincount(source.tokens)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def test_tiny_learns_more_than_byte_frequencies() -> None:
    settings = TrainSettings(
        batch_size=8,
        budget_tokens=8 * 128 * 60,
        optimizer=OptimizerSettings(learning_rate=6e-3, warmup_share=0.05),
    )
    sources = load_sources(settings.data, settings.model.context, settings.model.vocab_size)
    *steps, last = train_alone(settings, build_model(settings.model, settings.seed), sources)
    assert steps[0].loss == pytest.approx(np.log(256), abs=0.1)
    assert isinstance(last, EvaluationRecord)
    assert last.loss < unigram_entropy(sources.held_out) - 0.2


def test_the_same_seed_gives_the_same_losses_to_the_bit(sources: Sources) -> None:
    def run(settings: TrainSettings) -> list[StepRecord | EvaluationRecord]:
        model = build_model(settings.model, settings.seed)
        return list(train_alone(settings, model, sources))

    assert run(SETTINGS) == run(SETTINGS)
    assert run(SETTINGS) != run(replace(SETTINGS, seed=1))


def test_records_count_steps_and_tokens_and_end_with_an_evaluation(sources: Sources) -> None:
    settings = replace(SETTINGS, evaluate_every_steps=4)
    records = list(train_alone(settings, build_model(SMALLEST, 0), sources))
    kinds = [type(record) for record in records]
    assert kinds == [StepRecord] * 4 + [EvaluationRecord] + [StepRecord] * 2 + [EvaluationRecord]
    assert [record.step for record in records] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert all(record.tokens == record.step * 128 for record in records)
    final = records[-2]
    assert isinstance(final, StepRecord)
    assert final.learning_rate == pytest.approx(0.1 * settings.optimizer.learning_rate)


def test_micro_batches_give_the_same_step(sources: Sources) -> None:
    batch = load_batch(sources.train, range(4))
    results = []
    for num_parts in (1, 4):
        model = build_model(SMALLEST, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        loss = train_step(model, optimizer, batch, StepSettings(num_micro_batches=num_parts))
        results.append((loss, model.state_dict()))
    torch.testing.assert_close(results[0], results[1])


def test_a_batch_that_does_not_divide_names_the_fix(sources: Sources) -> None:
    model = build_model(SMALLEST, 0)
    optimizer = build_optimizer(model, OptimizerSettings())
    with pytest.raises(ValueError, match="change batch_size"):
        train_step(
            model, optimizer, load_batch(sources.train, range(3)), StepSettings(num_micro_batches=2)
        )


@pytest.mark.parametrize(("clip_norm", "clipped"), [(0.01, True), (float("inf"), False)])
def test_gradients_are_clipped_to_the_norm(
    sources: Sources, clip_norm: float, clipped: bool
) -> None:
    model = build_model(SMALLEST, 0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = StepSettings(clip_norm=clip_norm)
    train_step(model, optimizer, load_batch(sources.train, range(4)), settings)
    moves = [now.detach() - then for now, then in zip(model.parameters(), before, strict=True)]
    length = float(torch.cat([move.flatten() for move in moves]).norm())
    assert (length <= 0.0101) == clipped


def test_a_loss_is_a_tensor_without_history(sources: Sources) -> None:
    model = build_model(SMALLEST, 0)
    optimizer = build_optimizer(model, OptimizerSettings())
    loss = train_step(model, optimizer, load_batch(sources.train, range(2)), StepSettings())
    assert loss.dim() == 0
    assert not loss.requires_grad


def test_medium_products_follow_exact_ones_and_leave_the_process_as_it_was(
    sources: Sources,
) -> None:
    batch = load_batch(sources.train, range(4))
    gradients = []
    for matmul in ("highest", "medium"):
        model = build_model(SMALLEST, 0)
        settings = StepSettings(matmul=matmul, clip_norm=float("inf"))  # type: ignore[arg-type]
        train_step(model, build_optimizer(model, OptimizerSettings()), batch, settings)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
        assert torch.get_float32_matmul_precision() == "highest"
    exact, medium = gradients
    assert torch.nn.functional.cosine_similarity(exact, medium, dim=0) > 0.999


@pytest.mark.slow
def test_a_compiled_step_gives_the_loss_of_an_eager_one_for_every_model(sources: Sources) -> None:
    if not has_compiler():
        pytest.skip("no C++ compiler here")
    batch = load_batch(sources.train, range(2))
    for seed in range(3):  # one compilation serves them all
        losses = []
        for is_compiled in (False, True):
            model = build_model(SMALLEST, seed)
            optimizer = build_optimizer(model, OptimizerSettings())
            settings = StepSettings(compile=is_compiled)
            two = [float(train_step(model, optimizer, batch, settings)) for _ in range(2)]
            losses.append(two)
            assert not any("_orig_mod" in name for name in model.state_dict())
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
        assert losses[0][1] < losses[0][0], "it trains"


def test_bf16_follows_float32_closely_and_leaves_parameters_float32(sources: Sources) -> None:
    losses = []
    for bf16 in (False, True):
        settings = replace(SETTINGS, step=StepSettings(bf16=bf16))
        model = build_model(SMALLEST, 0)
        losses.append([record.loss for record in train_alone(settings, model, sources)])
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_vectors_are_not_decayed_and_all_parameters_are_trained() -> None:
    model = build_model(SMALLEST, 0)
    optimizer = build_optimizer(model, OptimizerSettings(weight_decay=0.3))
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert all(parameter.dim() == 1 for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_evaluation_repeats_changes_nothing_and_weighs_a_short_last_batch(
    sources: Sources,
) -> None:
    model = build_model(SMALLEST, 0).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    short = Windows(np.arange(33 * 5, dtype=np.uint8), 32, 256, "five windows")
    in_threes = evaluate(model, short, num_batches=10, batch_size=3, settings=StepSettings())
    with torch.no_grad():
        _, at_once = model(*load_batch(short, range(5)))
    assert in_threes == pytest.approx(float(at_once), rel=1e-6)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_is_trained_in_place(sources: Sources) -> None:
    model = build_model(SMALLEST, 0)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    before = model.lm_head.weight.detach().clone()
    for _ in train_alone(SETTINGS, model, sources):
        pass
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]
    assert not torch.equal(before, model.lm_head.weight)
