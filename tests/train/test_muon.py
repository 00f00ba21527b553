"""Muon beside AdamW: one optimizer to whoever looks at it from outside."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from atoll.train.model import build_model
from atoll.train.muon import MuonWithAdamW, split
from atoll.train.settings import ModelSettings, OptimizerSettings
from atoll.train.step import build_optimizer, set_learning_rate

SETTINGS = OptimizerSettings(kind="muon", learning_rate=0.01)
MODEL = ModelSettings(dim=16, num_layers=1, num_heads=2)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros(())
    for _ in range(steps):
        first = torch.randint(0, 200, (4, 1), generator=generator)
        tokens = first + torch.arange(9)
        optimizer.zero_grad()
        loss = model(tokens[:, :-1], tokens[:, 1:])[1]
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_go_to_muon_and_tables_and_vectors_to_adamw(tied: bool) -> None:
    model = build_model(replace(MODEL, tied_embedding=tied), 0)
    matrices, others = split(model)
    tables = [p for p in others if p.dim() == 2]
    assert len(matrices) == 7, "four of attention, three of the feed-forward part"
    assert all(table.shape[0] == MODEL.vocab_size for table in tables)
    assert len(tables) == (1 if tied else 2)
    assert len(matrices) + len(others) == len(list(model.parameters()))
    optimizer = build_optimizer(model, SETTINGS)
    set_learning_rate(optimizer, 0.25)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1, seed=0)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)
    keys = {frozenset(optimizer.state[p]) for p in matrices}
    assert keys == {frozenset({"momentum_buffer"})}


def test_it_learns() -> None:
    model = build_model(MODEL, 0)
    optimizer = build_optimizer(model, SETTINGS)
    first = train(model, optimizer, 1, seed=0)
    assert train(model, optimizer, 100, seed=1) < first - 2.0


def test_a_rate_of_zero_set_from_outside_stops_both() -> None:
    model = build_model(MODEL, 0)
    optimizer = build_optimizer(model, SETTINGS)
    set_learning_rate(optimizer, 0.0)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 2, seed=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_loaded_it_goes_on_exactly_where_it_was() -> None:
    model = build_model(MODEL, 0)
    optimizer = build_optimizer(model, SETTINGS)
    train(model, optimizer, 3, seed=0)
    other = copy.deepcopy(model)
    restored = MuonWithAdamW(*split(other), SETTINGS)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (other, restored)):
        train(each, its, 3, seed=1)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_state_put_in_place_from_outside_is_what_steps_use() -> None:
    """As a peer's inner state is: entries of `optimizer.state` are replaced, one by one."""
    model = build_model(MODEL, 0)
    optimizer = build_optimizer(model, SETTINGS)
    train(model, optimizer, 2, seed=0)
    twin = copy.deepcopy(model)
    taken = build_optimizer(twin, SETTINGS)
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        taken.state[its] = copy.deepcopy(dict(optimizer.state[mine]))
    for each, its in ((model, optimizer), (twin, taken)):
        train(each, its, 2, seed=1)
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
