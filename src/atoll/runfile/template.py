"""The run file that `atoll init` writes: the settings that matter, each with its reason.

What is not in it has its default; the syncer writes all of them to run.toml when it begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.core.settings import SettingsError

BUDGETS = {"tiny": 2_000_000, "micro": 5_000_000, "small": 20_000_000}
RATES = {"tiny": "3e-3", "micro": "3e-3", "small": "2e-3"}


@dataclass(frozen=True, slots=True)
class Choices:
    """What differs between two run files. `budget_tokens` 0 takes what suits the preset."""

    run: str
    port: int
    host: str
    learners: int
    preset: str
    budget_tokens: int = 0
    standby: str = ""

    def __post_init__(self) -> None:
        if self.preset not in BUDGETS:
            raise SettingsError(f"preset = {self.preset!r}: use one of {', '.join(BUDGETS)}")
        if self.learners < 1:
            raise SettingsError(f"learners = {self.learners}: set it to 1 or more")
        if self.budget_tokens < 0:
            raise SettingsError(f"tokens = {self.budget_tokens}: set it to 0 or more")


def run_file_text(choices: Choices) -> str:
    """The run file, with comments."""
    preset = choices.preset
    return TEXT.format(
        run=choices.run,
        port=choices.port,
        standby=f'standby = "{choices.standby}"' if choices.standby else '# standby = ""',
        host=choices.host,
        learners=choices.learners,
        preset=preset,
        budget=f"{choices.budget_tokens or BUDGETS[preset]:_}",
        fragments=16 if preset == "tiny" else 24,
        rate=RATES[preset],
    )


TEXT = """\
# The run '{run}'. What stands behind a # is a default, or an example to put in place.
#
# Syncer and learners read this file: take the same one to every place. Once the syncer has begun
# the run, what it follows (all down to [outer]) does not change any more; [service] may, but for
# host, port and standby. run.toml beside its state has every setting spelled out.

# How learners encode what they send: fp32, bf16, int8 or int4 (the fewest bytes).
uplink = "int8"

# Draws the first weights and every learner's order of data.
seed = 1

[run]
run = "{run}"
# The run ends when all learners together have trained so many tokens.
budget_tokens = {budget}
# A learner that was silent for so long has to join anew; until then all that is its own stays.
# lease_s = 120.0
# Items of the data set, for learner.batches in a loop of your own; 0 counts those of [train.data].
# dataset_items = 0

[protocol]
# Learners expected. More may come, fewer may be there.
M = {learners}
# Learners that a merge needs at least: a number, or "all".
K = 1
# The parameters are cut into P fragments; each is merged about once every H steps.
P = {fragments}
H = {fragments}
# What becomes of work done while a merge was on its way: overwrite it, or keep it.
# receipt = "overwrite"
# What becomes of work that came too late for its merge: carry it to the next one, or drop it.
# unmerged = "carry"

[merge]
# How displacements of matrices are averaged: mean, or rda (direction and length apart).
rule = "mean"
# How new versions are sent to learners: fp32, bf16, int8 or int4.
downlink_codec = "int8"

[outer]
# The optimizer that applies merged displacements: nesterov, sgd or adam. Rate and momentum come
# slowly, over the first 720 steps (ramp_merges).
kind = "nesterov"
lr = 0.7
momentum = 0.9

[service]
# Where the syncer listens. Off this machine only under TLS, with the certificate in keys/.
host = "{host}"
port = {port}
# host:port of a standby on the same disk (`atoll syncer --standby`); the invite names it too.
{standby}
# Most memory for contributions on their way.
# memory_bytes = 4_294_967_296
# Keep a snapshot of the parameters for good whenever so many tokens more are trained; 0 for none.
# keep_every_tokens = 0

# From here on: what `atoll learner` and `atoll train` do. A loop of your own does not need it.

[train]
# Windows of model.context tokens in each step.
batch_size = 8
# Where to train, in torch's words: cpu, cuda, cuda:1, mps.
device = "cpu"

[train.model]
# tiny (0.1 million parameters), micro (0.4) or small (1); or dim, num_layers, num_heads, context.
preset = "{preset}"

[train.data]
# stdlib is Python's own source, byte by byte, and needs no download. Others: text, jsonl, tokens,
# parquet, huggingface; they need a path.
kind = "stdlib"
# path = ""
# max_megabytes = 8.0
# All learners together make passes over the data; false: each reads all of it in its own order.
# leases = true

[train.optimizer]
# AdamW inside each learner; the rate follows the progress of the whole run.
learning_rate = {rate}
# warmup_share = 0.02
# weight_decay = 0.1

[train.step]
clip_norm = 1.0
# num_micro_batches = 1
# bf16 = false

[local]
# `atoll train` starts so many learners on this machine.
learners = {learners}
# Threads of torch in each of them, and in `atoll learner`: raise it where each has its own machine.
threads = 1
"""
