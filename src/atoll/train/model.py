"""A small Llama-style decoder: RMSNorm, rotary positions, SwiGLU, causal attention.

Parameters carry the names and follow the conventions of LlamaForCausalLM in transformers, so
export is a rename of nothing. Holds no buffers: rotary tables are computed in float32 at each
call, whatever the model was cast to. Never touches the global random state: the weights come from
one generator, drawn on the CPU in the order of the names, so a seed gives the same model anywhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.train.settings import ModelSettings

_EMBEDDING_STD = 0.02


class Linear(nn.Linear):
    """A matrix without bias; its weights are drawn by `init_weights`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: torch's own initialisation would use the global random state."""


class Embedding(nn.Embedding):
    """A table of vectors; its weights are drawn by `init_weights`."""

    def reset_parameters(self) -> None:
        """Draw nothing, as above."""


def rotary_tables(length: int, settings: ModelSettings, device: torch.device) -> list[Tensor]:
    """Cosine and sine of every position's angles, each [length, head_dim]."""
    exponents = torch.arange(0, settings.head_dim, 2, device=device, dtype=torch.float32)
    frequencies = settings.rope_theta ** (-exponents / settings.head_dim)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * frequencies[None, :]
    angles = torch.cat((angles, angles), dim=-1)
    return [angles.cos(), angles.sin()]


def rotate(heads: Tensor, tables: list[Tensor]) -> Tensor:
    """Turn each pair (i, i + head_dim/2) of `heads` [..., length, head_dim] by its angle."""
    cos, sin = tables
    first, second = heads.chunk(2, dim=-1)
    return (heads * cos + torch.cat((-second, first), dim=-1) * sin).to(heads.dtype)


class Attention(nn.Module):
    """Each token gathers from those before it."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.head_dim = settings.head_dim
        self.q_proj = Linear(settings.dim, settings.dim)
        self.k_proj = Linear(settings.dim, settings.dim)
        self.v_proj = Linear(settings.dim, settings.dim)
        self.o_proj = Linear(settings.dim, settings.dim)

    def forward(self, x: Tensor, tables: list[Tensor]) -> Tensor:
        """[batch, length, dim] to the same."""
        query = rotate(self._heads(self.q_proj(x)), tables)
        key = rotate(self._heads(self.k_proj(x)), tables)
        value = self._heads(self.v_proj(x))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, length, dim] to [batch, heads, length, head_dim]."""
        batch_size, length, _ = x.shape
        return x.view(batch_size, length, -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: one projection gates the other."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.gate_proj = Linear(settings.dim, settings.hidden_dim)
        self.up_proj = Linear(settings.dim, settings.hidden_dim)
        self.down_proj = Linear(settings.hidden_dim, settings.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] to the same."""
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        output: Tensor = self.down_proj(hidden)
        return output


class Layer(nn.Module):
    """Attention, then feed-forward, each normed before and added to the residual stream."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(settings.dim, settings.norm_epsilon)
        self.self_attn = Attention(settings)
        self.post_attention_layernorm = nn.RMSNorm(settings.dim, settings.norm_epsilon)
        self.mlp = FeedForward(settings)

    def forward(self, x: Tensor, tables: list[Tensor]) -> Tensor:
        """[batch, length, dim] to the same."""
        x = x + self.self_attn(self.input_layernorm(x), tables)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output


class Trunk(nn.Module):
    """Everything but the output head."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embed_tokens = Embedding(settings.vocab_size, settings.dim)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.num_layers))
        self.norm = nn.RMSNorm(settings.dim, settings.norm_epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [batch, length] to normed vectors [batch, length, dim]."""
        tables = rotary_tables(tokens.shape[1], self.settings, tokens.device)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, tables)
        output: Tensor = self.norm(x)
        return output


class Decoder(nn.Module):
    """The language model. Build it with `build_model`; by itself its weights are not drawn."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.model = Trunk(settings)
        self.lm_head = Linear(settings.dim, settings.vocab_size)
        if settings.tied_embedding:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [batch, length, vocab] and, given targets, the mean loss in nats per token."""
        if tokens.shape[1] > self.settings.context:
            raise ValueError(
                f"the input is {tokens.shape[1]} tokens long and model.context is "
                f"{self.settings.context}; shorten the input or raise model.context"
            )
        logits = self.lm_head(self.model(tokens))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    @property
    def num_params(self) -> int:
        """Number of parameters; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


@torch.no_grad()
def init_weights(model: Decoder, seed: int) -> None:
    """Draw all weights from `seed`.

    Matrices keep the size of what passes through them (variance 1/inputs); those that write into
    the residual stream are made smaller, so that its size does not grow with depth.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_scale = 1.0 / math.sqrt(2 * model.settings.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        std = 1.0 / math.sqrt(parameter.shape[1])
        if "embed_tokens" in name or "lm_head" in name:
            std = _EMBEDDING_STD
        elif "o_proj" in name or "down_proj" in name:
            std *= residual_scale
        drawn = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        parameter.copy_(drawn)


def build_model(settings: ModelSettings, seed: int) -> Decoder:
    """A decoder in float32 on the CPU with weights drawn from `seed`."""
    model = Decoder(settings)
    init_weights(model, seed)
    return model


def to_hf_config(settings: ModelSettings) -> dict[str, Any]:
    """The content of config.json for LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": settings.vocab_size,
        "hidden_size": settings.dim,
        "intermediate_size": settings.hidden_dim,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": settings.num_heads,
        "num_key_value_heads": settings.num_heads,
        "head_dim": settings.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": settings.context,
        "rms_norm_eps": settings.norm_epsilon,
        "rope_theta": settings.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": settings.tied_embedding,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def to_hf_state(model: Decoder) -> dict[str, Tensor]:
    """The weights under the names of LlamaForCausalLM, on the CPU; a tied head is left out.

    They are not copies where the model is on the CPU: write them out before training goes on.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if model.settings.tied_embedding:
        del state["lm_head.weight"]
    return state
