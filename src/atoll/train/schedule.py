"""The learning rate as a pure function of the run's progress.

Progress runs from 0 to 1 over the tokens of the whole run, not over one process's steps; a
schedule therefore never restarts when a learner does. Keeps no state and imports no torch.
"""

from __future__ import annotations

import math

from atoll.train.settings import OptimizerSettings


def learning_rate_factor(progress: float, settings: OptimizerSettings) -> float:
    """The learning rate at `progress`, as a share of the highest: warm-up, then decay."""
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is {progress}; it runs from 0 to 1, so cap it there")
    if progress < settings.warmup_share:
        return progress / settings.warmup_share
    elapsed = (progress - settings.warmup_share) / (1.0 - settings.warmup_share)
    match settings.decay:
        case "constant":
            return 1.0
        case "linear":
            remaining = 1.0 - elapsed
        case "cosine":
            remaining = 0.5 * (1.0 + math.cos(math.pi * elapsed))
    return settings.final_share + (1.0 - settings.final_share) * remaining


def learning_rate_at(progress: float, settings: OptimizerSettings) -> float:
    """The learning rate at `progress`."""
    return settings.learning_rate * learning_rate_factor(progress, settings)
