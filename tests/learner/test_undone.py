"""An install that the optimizer undid, told from one that an honest step happened to walk back."""

from __future__ import annotations

import pytest
import torch

from atoll.fragments import Layout
from atoll.learner.errors import InstallUndoneError
from atoll.learner.undone import TIMES, UndoneCheck

P = 2


@pytest.fixture
def island() -> tuple[UndoneCheck, dict[str, torch.Tensor]]:
    tensors = {f"t{number}": torch.zeros(8, 8) for number in range(P)}
    return UndoneCheck(Layout.from_tensors(tensors, P), tensors), tensors


def install(check: UndoneCheck, tensors: dict[str, torch.Tensor], *fragments: int) -> None:
    for fragment in fragments:
        check.watch(fragment, False)
        tensors[f"t{fragment}"] += 1.0
        check.watch(fragment, True)


def walk(check: UndoneCheck, tensors: dict[str, torch.Tensor], size: float) -> None:
    for tensor in tensors.values():
        tensor += size
    check.stepped()


Island = tuple[UndoneCheck, dict[str, torch.Tensor]]


def test_what_is_undone_at_joining_is_said_at_once(island: Island) -> None:
    install(*island, *range(P))
    with pytest.raises(InstallUndoneError):
        walk(*island, -1.0)


def test_what_is_undone_every_time_is_said(island: Island) -> None:
    for _ in range(TIMES - 1):
        install(*island, 0)
        walk(*island, -1.0)
    install(*island, 0)
    with pytest.raises(InstallUndoneError):
        walk(*island, -1.0)


def test_a_step_that_happens_to_walk_back_is_not_blamed(island: Island) -> None:
    check, _ = island
    for size in (-1.0, -1.0, -0.5, -0.95, -1.05, 0.5, -1.0):
        install(*island, 0)
        walk(*island, size)
    assert not check.decided, "and it goes on looking"
    install(*island, 0)
    walk(*island, 0.0)
    assert check.decided
