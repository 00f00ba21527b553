"""From a torch model to the ordered description that layouts are cut from.

Reads names, shapes, ties and, for frozen tensors, values. It must never change the model nor copy
what takes part. Invariant: two islands that built the same model get the same description,
whatever wrappers, local dtype or device they use.

* Tied tensors take part once, under the first name the model gives them; a head tied to the
  embedding is the embedding.
* Frozen parameters (`requires_grad=False`) are left out and digested.
* Floating persistent buffers take part, flagged to be averaged without outer optimizer; integer
  and non-persistent ones stay local.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.fragments.names import canonical_names
from atoll.fragments.pieces import Kind, TensorSpec
from atoll.fragments.raw_bytes import byte_view

DIGEST_SLICE_NUMEL = 1 << 22


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What takes part (`specs` and `tensors`, same order) and what is frozen."""

    specs: tuple[TensorSpec, ...]
    tensors: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]

    def frozen_digests(self) -> dict[str, str]:
        return {name: digest(name, tensor) for name, tensor in self.frozen.items()}


def describe(model: nn.Module) -> ModelDescription:
    """Names, shapes and kinds of what takes part, in the model's own order."""
    named = list(_named_once(model))
    names = canonical_names([name for name, _ in named])
    embeddings = _embedding_keys(model)
    specs: list[TensorSpec] = []
    tensors: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, (_, tensor) in zip(names, named, strict=True):
        is_buffer = not isinstance(tensor, nn.Parameter)
        if not is_buffer and not tensor.requires_grad:
            frozen[name] = tensor
        elif tensor.numel() > 0:
            kind = _kind(tensor, _identity(tensor) in embeddings)
            specs.append(_spec(name, tensor, kind, is_buffer))
            tensors[name] = tensor
    return ModelDescription(tuple(specs), tensors, frozen)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> the model's own tensor, for `gather` and `scatter_`."""
    return dict(describe(model).tensors)


def canonical_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors under their canonical names, tied ones once, under their first name."""
    once: dict[object, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        once.setdefault(_identity(tensor), (name, tensor))
    kept = [(name, tensor) for name, tensor in once.values() if tensor.numel() > 0]
    names = canonical_names([name for name, _ in kept])
    return {name: tensor for name, (_, tensor) in zip(names, kept, strict=True)}


def specs_of_tensors(
    tensors: Mapping[str, Tensor], embeddings: Sequence[str] = ()
) -> list[TensorSpec]:
    """As `describe`, from named tensors: all take part, none is frozen."""
    unknown = [name for name in embeddings if name not in tensors]
    if unknown:
        raise ValueError(f"embeddings names {unknown[0]!r}, which is not among the tensors")
    tables = {_identity(tensors[name]) for name in embeddings}
    return [
        _spec(name, tensor, _kind(tensor, _identity(tensor) in tables), False)
        for name, tensor in canonical_tensors(tensors).items()
    ]


def digest(name: str, tensor: Tensor) -> str:
    """sha256 over shape and values; floating values count as fp32, so equal values agree
    whether an island holds them in bf16 or fp32.
    """
    if tensor.is_meta:
        raise ValueError(f"{name} is frozen and has no values yet: load the model first")
    hasher = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    flat = tensor.detach().reshape(-1)
    for part in torch.split(flat, DIGEST_SLICE_NUMEL):
        values = part.float() if part.is_floating_point() else part
        hasher.update(byte_view(values.cpu().contiguous()))
    return hasher.hexdigest()


def _named_once(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then floating persistent buffers, each tensor under its first name."""
    seen: set[object] = set()
    for name, tensor in (*model.named_parameters(), *_floating_persistent_buffers(model)):
        if _identity(tensor) not in seen:
            seen.add(_identity(tensor))
            yield name, tensor


def _floating_persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # torch has no public way to ask which buffers are persistent
    for prefix, module in model.named_modules():
        local = module._non_persistent_buffers_set  # noqa: SLF001
        for name, buffer in module.named_buffers(recurse=False):
            if name not in local and buffer.is_floating_point():
                yield f"{prefix}.{name}" if prefix else name, buffer


def _embedding_keys(model: nn.Module) -> set[object]:
    tables = (nn.Embedding, nn.EmbeddingBag)
    return {_identity(module.weight) for module in model.modules() if isinstance(module, tables)}


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that are the same memory in the same shape; objects where there is none."""
    if tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _kind(tensor: Tensor, is_embedding: bool) -> Kind:
    if tensor.dim() <= 1:
        return "vector"
    return "embedding" if is_embedding else "matrix"


def _spec(name: str, tensor: Tensor, kind: Kind, is_buffer: bool) -> TensorSpec:
    if not torch.is_floating_point(tensor):
        raise ValueError(f"{name} is {tensor.dtype}: only floating tensors can be merged")
    return TensorSpec(name, tuple(tensor.shape), kind, is_buffer)
