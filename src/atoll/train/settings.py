"""What a user may set about the reference trainer, with units and limits.

Kept apart from the code it steers for one reason: this module never imports torch or numpy, so a
run file is read, checked and explained in milliseconds. Every value is checked when it is made;
a wrong one raises `ValueError` with the fix in it. Nothing here reads files or the environment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

DataKind = Literal["stdlib", "text", "jsonl", "tokens", "parquet", "huggingface"]
DecayShape = Literal["cosine", "linear", "constant"]
InnerKind = Literal["adamw", "muon"]
Exactness = Literal["highest", "high", "medium"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The shape of the decoder. The defaults are the preset `tiny`."""

    vocab_size: int = 256
    """Number of token ids; 256 is one per byte, which needs no tokeniser."""
    dim: int = 64
    """Width of the residual stream, in numbers per token."""
    num_layers: int = 2
    num_heads: int = 2
    hidden_multiple: float = 8 / 3
    """Width of the feed-forward part as a multiple of `dim`, rounded to a multiple of 8."""
    context: int = 128
    """Longest input, in tokens."""
    tied_embedding: bool = True
    """Whether the output head is the embedding itself."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "context"):
            value = getattr(self, name)
            _require(value >= 1, f"model.{name} is {value}; set it to 1 or more")
        _require(
            self.dim % (2 * self.num_heads) == 0,
            f"model.dim is {self.dim} with {self.num_heads} heads: each head needs an even width, "
            f"so make dim a multiple of {2 * self.num_heads} or change num_heads",
        )
        for name in ("hidden_multiple", "rope_theta", "norm_epsilon"):
            value = getattr(self, name)
            _require(value > 0, f"model.{name} is {value}; set it above 0")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward part."""
        return max(8, round(self.dim * self.hidden_multiple / 8) * 8)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelSettings:
        """The preset `name`, with single fields changed."""
        _require(name in PRESETS, f"no model preset {name!r}; choose from {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)


PRESETS: dict[str, ModelSettings] = {
    "tiny": ModelSettings(),
    "micro": ModelSettings(dim=96, num_layers=3, num_heads=3),
    "small": ModelSettings(dim=128, num_layers=5, num_heads=4, context=256),
}


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Where tokens come from. The default needs no download: Python's own source as bytes."""

    kind: DataKind = "stdlib"
    path: str = ""
    """A file or folder; for `huggingface` the data set's name. Unused by `stdlib`."""
    field: str = "text"
    """Name of the text field (`jsonl`) or column (`parquet`, `huggingface`)."""
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    """How ids are stored in a `tokens` file, little-endian."""
    subset: str = ""
    """Configuration of a `huggingface` data set; empty for its default."""
    split: str = "train"
    """Split of a `huggingface` data set; the held-out part is taken out of it."""
    max_megabytes: float = 8.0
    """Most text taken, in 10^6 bytes, held-out part included. `tokens` files are never capped."""
    held_out_share: float = 0.05
    """Share kept away from training, between 0 and 1."""
    leases: bool = True
    """Deal the items out, so that all learners together make passes over the data. Without, each
    learner reads all of it in an order of its own, as with a loader of your own."""

    def __post_init__(self) -> None:
        kinds = get_args(DataKind)
        _require(self.kind in kinds, f"no data kind {self.kind!r}; choose from {', '.join(kinds)}")
        _require(
            self.kind == "stdlib" or bool(self.path),
            f"data.path is empty; kind {self.kind!r} needs a file, folder or data set name there",
        )
        _require(
            self.token_dtype in ("uint16", "uint32"),
            f"data.token_dtype is {self.token_dtype!r}; set it to uint16 or uint32",
        )
        _require(bool(self.field), "data.field is empty; name the field that holds the text")
        _require(
            self.max_megabytes > 0,
            f"data.max_megabytes is {self.max_megabytes}; set it above 0",
        )
        _require(
            0 < self.held_out_share < 1,
            f"data.held_out_share is {self.held_out_share}; set it between 0 and 1, such as 0.05",
        )


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """The inner optimizer, and its learning rate over the progress of the run."""

    kind: InnerKind = "adamw"
    """`muon` takes Muon for the matrices between embedding and head, and AdamW for the rest."""
    learning_rate: float = 3e-3
    """The highest learning rate, reached at the end of the warm-up."""
    momentum: float = 0.95
    """Muon's; AdamW has its betas."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Applied to tensors of two dimensions or more, as a share per unit of learning rate."""
    warmup_share: float = 0.02
    """Share of the run during which the learning rate rises from 0; 0 for no warm-up."""
    final_share: float = 0.1
    """Learning rate at the end of the run, as a share of the highest."""
    decay: DecayShape = "cosine"
    """How it falls after the warm-up."""

    def __post_init__(self) -> None:
        kinds = get_args(InnerKind)
        _require(
            self.kind in kinds,
            f"optimizer.kind is {self.kind!r}; choose from {', '.join(kinds)}",
        )
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            _require(value > 0, f"optimizer.{name} is {value}; set it above 0")
        for name in ("momentum", "beta1", "beta2", "warmup_share"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name} is {value}; set it from 0 to below 1")
        _require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay is {self.weight_decay}; set it to 0 or more",
        )
        _require(
            0 <= self.final_share <= 1,
            f"optimizer.final_share is {self.final_share}; set it from 0 to 1",
        )
        shapes = get_args(DecayShape)
        _require(
            self.decay in shapes,
            f"optimizer.decay is {self.decay!r}; choose from {', '.join(shapes)}",
        )


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How one optimizer step is computed."""

    clip_norm: float = 1.0
    """Gradients longer than this are scaled down to it; `inf` never clips."""
    num_micro_batches: int = 1
    """Parts a batch is computed in; more parts need less memory and give the same step."""
    bf16: bool = False
    """Whether matrix products run in bfloat16 (autocast); parameters stay as they are."""
    matmul: Exactness = "highest"
    """How exact products of float32 matrices are, in torch's words: `medium` multiplies bfloat16
    values and adds in float32, where the processor is faster at that."""
    compile: bool = False
    """Whether the forward pass is compiled, which takes a C++ compiler and a minute at first."""

    def __post_init__(self) -> None:
        _require(
            self.matmul in get_args(Exactness),
            f"step.matmul is {self.matmul!r}; choose from {', '.join(get_args(Exactness))}",
        )
        _require(self.clip_norm > 0, f"step.clip_norm is {self.clip_norm}; set it above 0, or inf")
        _require(
            self.num_micro_batches >= 1,
            f"step.num_micro_batches is {self.num_micro_batches}; set it to 1 or more",
        )


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """One whole training run by one process."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    step: StepSettings = StepSettings()
    batch_size: int = 16
    """Windows of `model.context` tokens per optimizer step."""
    budget_tokens: int = 1_000_000
    """Tokens after which the run ends; the last step may go over it by less than one batch."""
    seed: int = 0
    """Draws the first weights and the order of the data."""
    device: str = "cpu"
    """Where to train, in torch's words: `cpu`, `cuda`, `cuda:1`, `mps`."""
    evaluate_every_steps: int = 0
    """Steps between evaluations on the held-out part; 0 evaluates once, at the end."""
    num_evaluation_batches: int = 8

    def __post_init__(self) -> None:
        for name in ("batch_size", "budget_tokens", "num_evaluation_batches"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} is {value}; set it to 1 or more")
        _require(
            self.evaluate_every_steps >= 0,
            f"evaluate_every_steps is {self.evaluate_every_steps}; set it to 0 or more",
        )
        _require(0 <= self.seed < 2**63, f"seed is {self.seed}; set it from 0 to below 2**63")
        _require(
            self.batch_size % self.step.num_micro_batches == 0,
            f"batch_size {self.batch_size} does not divide into {self.step.num_micro_batches} "
            "equal micro-batches; make it a multiple of step.num_micro_batches",
        )

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.model.context

    @property
    def num_steps(self) -> int:
        """Steps until the budget is met."""
        return -(-self.budget_tokens // self.step_tokens)
