"""A run file to start from, out of a plan: what `atoll plan --write` writes.

The model is the reference decoder nearest to the number of parameters asked for, on the data that
needs no download, so the file runs as it is; both are to be replaced by one's own.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import torch

from atoll.runfile.toml import dump
from atoll.simulator.planning.plan import Plan
from atoll.syncer.settings import ServiceSettings
from atoll.train.model import Decoder
from atoll.train.settings import PRESETS, ModelSettings

HEAD_DIM = 128
CONTEXT = 2048
SMALL_PARAMS = 20_000_000
"""Below this a preset's heads and context suit better."""


def decoder_near(params: int) -> ModelSettings:
    """A decoder of about so many parameters, as deep as is usual for its width."""
    base = PRESETS["small"] if params < SMALL_PARAMS else ModelSettings(context=CONTEXT)
    head_dim = base.head_dim if params < SMALL_PARAMS else HEAD_DIM
    best, best_size = base, num_params(base)
    for num_heads in range(1, 257):
        shape = replace(base, dim=head_dim * num_heads, num_heads=num_heads)
        layers = max(1, round(params / (12 * shape.dim**2)))
        if not num_heads / 2 <= layers <= 4 * num_heads:
            continue
        shape = replace(shape, num_layers=layers)
        size = num_params(shape)
        if abs(size - params) < abs(best_size - params):
            best, best_size = shape, size
    return best


def num_params(shape: ModelSettings) -> int:
    """Of a decoder of this shape; nothing is allocated."""
    with torch.device("meta"):
        layer = replace(shape, num_layers=1)
        one, two = Decoder(layer).num_params, Decoder(replace(shape, num_layers=2)).num_params
    return one + (shape.num_layers - 1) * (two - one)


def planned_text(plan: Plan, shape: ModelSettings) -> str:
    """The run file, for a model of this shape."""
    choice, service = plan.choice, ServiceSettings()
    step_tokens = plan.ask.sites[0].step_tokens
    memory = max(service.memory_bytes, 2 * plan.syncer.contribution_bytes)
    return TEXT.format(
        run=plan.ask.run,
        params=plan.ask.params,
        sites=", ".join(each.name for each in plan.ask.sites),
        goodput=plan.outlook.goodput,
        days=plan.hours / 24,
        up=choice.up,
        down=choice.down,
        tokens=plan.tokens,
        M=len(plan.ask.sites),
        K=plan.K,
        P=choice.P,
        H=choice.H,
        tau_steps=plan.tau_steps,
        memory=memory,
        threads=min(plan.syncer.merge_threads, plan.ask.syncer.cores),
        batch=max(1, step_tokens // shape.context),
        size=num_params(shape),
        shape=dump(msgspec.to_builtins(shape)).strip(),
        local=len(plan.ask.sites),
    )


TEXT = """\
# Planned by `atoll plan` for {params:_} parameters at {sites}.
# Expected: goodput {goodput:.1%} (without what `receipt = "overwrite"` drops by design), {days:.1f}
# days. `atoll plan` says why each value is what it is.

# How learners encode what they send.
uplink = "{up}"

[run]
run = "{run}"
budget_tokens = {tokens:_}

[protocol]
M = {M}
K = {K}
P = {P}
H = {H}
# tau = "auto" is expected to come to {tau_steps} steps.
tau = "auto"

[merge]
rule = "mean"
# How new versions are sent to learners.
downlink_codec = "{down}"

[outer]
kind = "nesterov"
lr = 0.7
momentum = 0.9

[service]
# Learners come from outside: `atoll syncer` makes the certificate for it.
host = "0.0.0.0"
port = 7420
# Most memory for contributions on their way.
memory_bytes = {memory:_}
merge_threads = {threads}

[train]
# Windows of model.context tokens in each step: the tokens of a step that the plan counts with.
batch_size = {batch}

[train.model]
# The reference decoder, {size:_} parameters; put your own shape here.
{shape}

[train.data]
# Python's own source, byte by byte, so that the file runs as it is: put your data here.
kind = "stdlib"

[local]
learners = {local}
"""
