"""The methods that `atoll compare` knows, each as changes to one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from atoll.compare.trial import Trial
from atoll.core.settings import SettingsError
from atoll.merge.averaging import Rule
from atoll.merge.outer import OuterSettings
from atoll.simulator.training import TrainingSettings

Change = Callable[[TrainingSettings], Trial]

FAMILY_OUTER = OuterSettings("nesterov", lr=0.7, momentum=0.9, ramp_merges=0)
STREAMING_OUTER = OuterSettings("nesterov", lr=0.4, momentum=0.9, ramp_merges=0)


def with_protocol(settings: TrainingSettings, **changes: Any) -> TrainingSettings:
    """The same run under other rules."""
    return replace(settings, protocol=replace(settings.protocol, **changes))


def with_merge(settings: TrainingSettings, rule: Rule, outer: OuterSettings) -> TrainingSettings:
    """The same run with another merge rule and outer optimizer."""
    averaging = replace(settings.merge.averaging, rule=rule)
    merge = replace(settings.merge, averaging=averaging, outer=outer)
    return replace(settings, merge=merge)


def _streaming(settings: TrainingSettings) -> Trial:
    changed = with_protocol(settings, K="all", receipt="alpha", unmerged="carry")
    return Trial("decoupled", with_merge(changed, "mean", STREAMING_OUTER))


METHODS: Mapping[str, tuple[str, Change]] = {
    "data-parallel": (
        "gradients averaged before every step",
        lambda settings: Trial("data-parallel", settings),
    ),
    "data-parallel-averaged": (
        "the same, judged by the mean of its weights over the last H steps",
        lambda settings: Trial("data-parallel-averaged", settings),
    ),
    "local-step-1": (
        "own optimizers, parameters averaged after every step",
        lambda settings: Trial("local-step-1", settings),
    ),
    "diloco": (
        "everybody waits for one merge of all parameters every H steps",
        lambda settings: Trial("diloco", with_merge(settings, "mean", FAMILY_OUTER)),
    ),
    "diloco-same-merge": (
        "DiLoCo with the merge rule and outer optimizer of this configuration",
        lambda settings: Trial("diloco", settings),
    ),
    "streaming": ("fragments, K = all, received values mixed with one's own", _streaming),
    "decoupled": (
        "this configuration",
        lambda settings: Trial("decoupled", settings),
    ),
    "decoupled-all": (
        "this configuration with K = all",
        lambda settings: Trial("decoupled", with_protocol(settings, K="all")),
    ),
    "decoupled-paper": (
        "this configuration with the published receipt rule: overwrite and drop",
        lambda settings: Trial(
            "decoupled", with_protocol(settings, receipt="overwrite", unmerged="drop")
        ),
    ),
    "decoupled-rda": (
        "this configuration with RDA (radial-directional averaging)",
        lambda settings: Trial("decoupled", with_merge(settings, "rda", settings.merge.outer)),
    ),
}
"""Each method with a line of help."""

DEFAULT = ("data-parallel", "diloco", "streaming", "decoupled")


def trial_of(name: str, settings: TrainingSettings) -> Trial:
    """The trial of a named method under a configuration."""
    if name not in METHODS:
        raise SettingsError(f"no method {name!r}: choose from {', '.join(METHODS)}")
    return METHODS[name][1](settings)
