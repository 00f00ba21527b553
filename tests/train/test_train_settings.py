"""Settings refuse what cannot work, name the fix, and load without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from atoll.train.settings import (
    PRESETS,
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    StepSettings,
    TrainSettings,
)


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (lambda: ModelSettings(num_layers=0), "set it to 1 or more"),
        (lambda: ModelSettings(dim=66, num_heads=4), "multiple of 8"),
        (lambda: ModelSettings(hidden_multiple=0), "set it above 0"),
        (lambda: ModelSettings.preset("huge"), "choose from tiny, micro, small"),
        (lambda: DataSettings(kind="csv"), "choose from stdlib, text"),  # type: ignore[arg-type]
        (lambda: DataSettings(kind="text"), "needs a file, folder"),
        (lambda: DataSettings(token_dtype="int8"), "uint16 or uint32"),  # type: ignore[arg-type]
        (lambda: DataSettings(field=""), "name the field"),
        (lambda: DataSettings(max_megabytes=0), "set it above 0"),
        (lambda: DataSettings(held_out_share=1.0), "such as 0.05"),
        (lambda: OptimizerSettings(learning_rate=0), "set it above 0"),
        (lambda: OptimizerSettings(beta2=1.0), "from 0 to below 1"),
        (lambda: OptimizerSettings(weight_decay=-1), "0 or more"),
        (lambda: OptimizerSettings(final_share=2), "from 0 to 1"),
        (lambda: OptimizerSettings(decay="step"), "choose from cosine"),  # type: ignore[arg-type]
        (lambda: StepSettings(clip_norm=0), "above 0, or inf"),
        (lambda: StepSettings(num_micro_batches=0), "1 or more"),
        (lambda: TrainSettings(budget_tokens=0), "1 or more"),
        (lambda: TrainSettings(evaluate_every_steps=-1), "0 or more"),
        (lambda: TrainSettings(seed=-1), "from 0 to below"),
        (
            lambda: TrainSettings(batch_size=3, step=StepSettings(num_micro_batches=2)),
            "make it a multiple",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_the_fix(make: Callable[[], object], fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        make()


def test_presets_take_changes() -> None:
    assert ModelSettings.preset("small", context=64).context == 64
    assert ModelSettings.preset("small", context=64).dim == PRESETS["small"].dim


def test_the_budget_is_met_by_whole_steps() -> None:
    settings = TrainSettings(batch_size=2, budget_tokens=257)
    assert settings.step_tokens == 256
    assert settings.num_steps == 2


def test_settings_travel_through_a_file_unchanged() -> None:
    settings = TrainSettings(model=PRESETS["micro"], optimizer=OptimizerSettings(decay="linear"))
    assert msgspec.json.decode(msgspec.json.encode(settings), type=TrainSettings) == settings


def test_settings_and_schedule_load_without_torch_or_numpy() -> None:
    code = (
        "import sys, atoll.train.settings, atoll.train.schedule, atoll.train.order; "
        "sys.exit(' '.join({'torch', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.stderr.strip() in ("", "0"), f"loaded {ended.stderr}"
