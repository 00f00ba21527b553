"""Muon for the matrices of a model, AdamW for all else, as one optimizer.

One `state` and one list of `param_groups`, so that whoever sets a learning rate, saves, loads or
lends the state of an optimizer need not know that there are two. Steps of matrices are scaled to
the size that AdamW's have, so both follow one learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from atoll.train.settings import OptimizerSettings


class MuonWithAdamW(torch.optim.Optimizer):
    """`matrices` by Muon, `others` by AdamW; vectors are not decayed."""

    def __init__(
        self, matrices: Sequence[Tensor], others: Sequence[Tensor], settings: OptimizerSettings
    ):
        rate, decay = settings.learning_rate, settings.weight_decay
        muon = torch.optim.Muon(
            matrices,
            lr=rate,
            weight_decay=decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.dim() >= 2], "weight_decay": decay},
                {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )
        self._parts: list[torch.optim.Optimizer] = [muon, adamw]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts see the state and groups of the whole."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices between embedding and head, and all other parameters that are trained."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = id(parameter) in tables or "lm_head" in name
            (others if is_table or parameter.dim() != 2 else matrices).append(parameter)
    return matrices, others
