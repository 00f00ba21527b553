"""The decoder against a slow copy of itself in numpy, its weights, and its export."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from atoll.train.model import Decoder, build_model, rotary_tables, rotate, to_hf_config, to_hf_state
from atoll.train.settings import PRESETS, ModelSettings

Array = npt.NDArray[np.float64]
SETTINGS = ModelSettings(
    vocab_size=50,
    dim=24,
    num_layers=2,
    num_heads=2,
    context=16,
    rope_theta=500.0,
    norm_epsilon=1e-2,
)
UNTIED = replace(SETTINGS, tied_embedding=False)


def loud_model(settings: ModelSettings) -> Decoder:
    """Weights large enough that a wrong sign or scale anywhere shows in the logits."""
    model = build_model(settings, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.3, generator=generator))
    return model


def tokens_for(settings: ModelSettings, batch_size: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (batch_size, settings.context)
    return torch.randint(0, settings.vocab_size, shape, generator=generator)


def slow_norm(x: Array, weight: Array, epsilon: float) -> Array:
    normed: Array = x / np.sqrt(np.mean(x * x) + epsilon) * weight
    return normed


def slow_rotation(head: Array, position: int, theta: float) -> Array:
    """Rotate pairs as complex numbers: (x_i + i·x_{i+d/2})·e^{i·position·theta^(-2i/d)}."""
    half = len(head) // 2
    angles = position * theta ** (-2.0 * np.arange(half) / len(head))
    turned = (head[:half] + 1j * head[half:]) * np.exp(1j * angles)
    return np.concatenate((turned.real, turned.imag))


def slow_logits(model: Decoder, tokens: list[int]) -> Array:
    """One sequence, one token and one head at a time, in float64."""
    settings = model.settings
    weights = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}
    heads = (settings.num_heads, settings.head_dim)
    stream = [weights["model.embed_tokens.weight"][token] for token in tokens]
    for layer in range(settings.num_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): value
            for name, value in weights.items()
        }
        keys: list[Array] = []
        values: list[Array] = []
        for place, x in enumerate(stream):
            normed = slow_norm(x, own["input_layernorm"], settings.norm_epsilon)
            query = (own["self_attn.q_proj"] @ normed).reshape(heads)
            keys.append((own["self_attn.k_proj"] @ normed).reshape(heads))
            values.append((own["self_attn.v_proj"] @ normed).reshape(heads))
            mixed = []
            for head in range(settings.num_heads):
                turned = slow_rotation(query[head], place, settings.rope_theta)
                scores = np.array(
                    [
                        turned @ slow_rotation(key[head], earlier, settings.rope_theta)
                        for earlier, key in enumerate(keys)
                    ]
                ) / np.sqrt(settings.head_dim)
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                mixed.append(sum(s * v[head] for s, v in zip(shares, values, strict=True)))
            x = x + own["self_attn.o_proj"] @ np.concatenate(mixed)
            normed = slow_norm(x, own["post_attention_layernorm"], settings.norm_epsilon)
            gate = own["mlp.gate_proj"] @ normed
            hidden = gate / (1 + np.exp(-gate)) * (own["mlp.up_proj"] @ normed)
            stream[place] = x + own["mlp.down_proj"] @ hidden
    head_weight = weights["lm_head.weight"]
    final = weights["model.norm.weight"]
    return np.stack([head_weight @ slow_norm(x, final, settings.norm_epsilon) for x in stream])


@pytest.mark.parametrize("settings", [SETTINGS, UNTIED], ids=["tied", "untied"])
def test_logits_and_loss_equal_the_slow_model(settings: ModelSettings) -> None:
    model = loud_model(settings)
    tokens = tokens_for(settings)
    targets = tokens.roll(-1, 1)
    with torch.no_grad():
        logits, loss = model(tokens, targets)
    expected = np.stack([slow_logits(model, row.tolist()) for row in tokens])
    assert np.std(expected) > 0.5
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3)
    log_sums = np.log(np.exp(expected).sum(-1))
    chosen = np.take_along_axis(expected, targets.numpy()[..., None], -1)[..., 0]
    assert float(loss) == pytest.approx(np.mean(log_sums - chosen), rel=1e-4)


def test_rotation_equals_the_complex_one() -> None:
    heads = torch.randn(10, SETTINGS.head_dim, generator=torch.Generator().manual_seed(0))
    turned = rotate(heads, rotary_tables(10, SETTINGS, torch.device("cpu")))
    expected = [
        slow_rotation(row.double().numpy(), place, SETTINGS.rope_theta)
        for place, row in enumerate(heads)
    ]
    np.testing.assert_allclose(turned.numpy(), np.stack(expected), atol=1e-5)


def test_no_token_sees_what_comes_after_it() -> None:
    model = loud_model(SETTINGS)
    tokens = tokens_for(SETTINGS)
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % SETTINGS.vocab_size
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_a_seed_gives_the_same_model_and_leaves_the_global_dice_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build_model(SETTINGS, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
        if weight.dim() > 1:
            assert not torch.equal(weight, other.state_dict()[name]), name


def test_a_fresh_model_is_nearly_uniform() -> None:
    model = build_model(PRESETS["tiny"], seed=0)
    tokens = tokens_for(PRESETS["tiny"])
    with torch.no_grad():
        _, loss = model(tokens, tokens.roll(-1, 1))
    assert float(loss) == pytest.approx(np.log(256), abs=0.1)


@pytest.mark.parametrize(("name", "about"), [("tiny", 1e5), ("micro", 3.5e5), ("small", 1e6)])
def test_presets_have_about_the_size_they_say(name: str, about: float) -> None:
    assert build_model(PRESETS[name], 0).num_params == pytest.approx(about, rel=0.2)


def test_a_tied_head_counts_once_and_shares_its_storage() -> None:
    tied, untied = build_model(SETTINGS, 0), build_model(UNTIED, 0)
    assert untied.num_params - tied.num_params == SETTINGS.vocab_size * SETTINGS.dim
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert list(tied.buffers()) == []


def test_too_long_an_input_names_the_fix() -> None:
    model = build_model(SETTINGS, 0)
    with pytest.raises(ValueError, match=r"raise model\.context"):
        model(torch.zeros(1, SETTINGS.context + 1, dtype=torch.int64))


def test_a_bf16_model_keeps_exact_rotary_tables() -> None:
    model = loud_model(SETTINGS)
    tokens = tokens_for(SETTINGS)
    with torch.no_grad():
        exact = model(tokens)[0]
        rounded = model.bfloat16()(tokens)[0].float()
    assert rounded.dtype == torch.float32
    assert torch.corrcoef(torch.stack((exact.flatten(), rounded.flatten())))[0, 1] > 0.99


def test_export_has_the_names_and_shapes_of_llama() -> None:
    dim, hidden = SETTINGS.dim, SETTINGS.hidden_dim
    layer = {
        "input_layernorm": (dim,),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.up_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
    } | {f"self_attn.{part}_proj": (dim, dim) for part in "qkvo"}
    expected = {
        f"model.layers.{number}.{name}.weight": shape
        for number in range(SETTINGS.num_layers)
        for name, shape in layer.items()
    }
    expected["model.embed_tokens.weight"] = (SETTINGS.vocab_size, dim)
    expected["model.norm.weight"] = (dim,)
    tied = to_hf_state(build_model(SETTINGS, 0))
    assert {name: tuple(tensor.shape) for name, tensor in tied.items()} == expected
    untied = to_hf_state(build_model(UNTIED, 0))
    assert set(untied) - set(tied) == {"lm_head.weight"}
    assert all(not tensor.requires_grad for tensor in tied.values())


@pytest.mark.parametrize("settings", [SETTINGS, UNTIED], ids=["tied", "untied"])
def test_exported_model_gives_equal_logits_in_transformers(settings: ModelSettings) -> None:
    pytest.importorskip("transformers")
    transformers: Any = importlib.import_module("transformers")
    model = loud_model(settings)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**to_hf_config(settings)))
    missing, unexpected = theirs.load_state_dict(to_hf_state(model), strict=False)
    assert unexpected == []
    assert set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    tokens = tokens_for(settings)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens)[0], atol=1e-4, rtol=1e-4)
