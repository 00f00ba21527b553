"""One run of one method: its full settings, its key, and how it is done."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import msgspec

from atoll.compare.baselines import (
    data_parallel,
    data_parallel_averaged,
    diloco,
    local_step_1,
)
from atoll.core.settings import SettingsError
from atoll.simulator.training import Look, TrainingResult, TrainingSettings, simulate_training
from atoll.train.data import Sources
from atoll.train.sources import load_sources

Method = Literal["data-parallel", "data-parallel-averaged", "local-step-1", "diloco", "decoupled"]
NUMBERS = 2
"""Goes up when the same settings give other numbers, so that kept results do not mix."""
ADDED: Mapping[str, Any] = {"protocol.first_H": "H", "protocol.growing_rounds": 40}
"""Settings that came after results were kept, by path ("protocol.tau"), each with the value under
which nothing is different: with that value they are left out of the key, and kept results count."""

_DONE_BY: Mapping[str, Callable[[TrainingSettings, Sources], Iterator[Look | TrainingResult]]] = {
    "data-parallel": data_parallel,
    "data-parallel-averaged": data_parallel_averaged,
    "local-step-1": local_step_1,
    "diloco": diloco,
    "decoupled": simulate_training,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. Equal trials give equal numbers."""

    method: Method
    training: TrainingSettings

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise SettingsError(f"no method {self.method!r}: use one of {known}")

    @property
    def seed(self) -> int:
        """Draws weights, data order, pace and failures."""
        return self.training.train.seed

    @property
    def key(self) -> str:
        """A name that depends on all that the numbers depend on."""
        text = json.dumps([NUMBERS, _without_added(self.plain())], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """All settings as plain values that JSON can hold."""
        found: dict[str, Any] = msgspec.to_builtins({"method": self.method, **_tables(self)})
        return {key: _without_infinity(value) for key, value in found.items()}

    def with_seed(self, seed: int) -> Trial:
        """The same trial from other weights and another order of data."""
        train = replace(self.training.train, seed=seed)
        return replace(self, training=replace(self.training, train=train))

    def run(self, sources: Sources) -> Iterator[Look | TrainingResult]:
        """Looks on the way, the result last."""
        return _DONE_BY[self.method](self.training, sources)

    def load(self) -> Sources:
        """The data that this trial trains on."""
        train = self.training.train
        return load_sources(train.data, train.model.context, train.model.vocab_size)


def _tables(trial: Trial) -> dict[str, Any]:
    training = trial.training
    return {name: getattr(training, name) for name in training.__dataclass_fields__}


def _without_added(plain: dict[str, Any], path: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in plain.items():
        place = path + key
        if place in ADDED and value == ADDED[place]:
            continue
        kept[key] = _without_added(value, f"{place}.") if isinstance(value, dict) else value
    return kept


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
