"""Between a model's tensors and flat fragments: `gather` copies out, `scatter_` writes in place.

Any floating dtype and device; the flat side is fp32. Must never allocate new storage for the
model's tensors nor touch rows outside the fragment. Invariant: after `scatter_`, `gather` gives
what the model really holds: for a bf16 island the rounded values, its own exact base.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atoll.fragments.layout import Layout
from atoll.fragments.pieces import Fragment, Piece, TensorSpec


@torch.no_grad()
def gather(
    layout: Layout, fragment_index: int, tensors: Mapping[str, Tensor], out: Tensor | None = None
) -> Tensor:
    """The fragment as one flat fp32 tensor, into `out` where given."""
    fragment = layout.fragments[fragment_index]
    rows = _rows(layout, fragment, tensors)
    flat = _flat(fragment, rows[0].device) if out is None else _checked(fragment, out)
    for piece, source in zip(fragment.pieces, rows, strict=True):
        flat[piece.offset : piece.stop].view(source.shape).copy_(source)
    return flat


@torch.no_grad()
def scatter_(
    layout: Layout, fragment_index: int, flat: Tensor, tensors: Mapping[str, Tensor]
) -> None:
    """Write the flat fragment into the tensors' own storage, rounded to their dtype."""
    fragment = layout.fragments[fragment_index]
    _checked(fragment, flat)
    for piece, target in zip(fragment.pieces, _rows(layout, fragment, tensors), strict=True):
        target.copy_(flat[piece.offset : piece.stop].view(target.shape))


def _flat(fragment: Fragment, device: torch.device) -> Tensor:
    return torch.empty(fragment.numel, dtype=torch.float32, device=device)


def _checked(fragment: Fragment, flat: Tensor) -> Tensor:
    if flat.shape != (fragment.numel,) or flat.dtype != torch.float32:
        raise ValueError(
            f"the fragment is {fragment.numel} fp32 values, given are {flat.dtype} "
            f"of shape {tuple(flat.shape)}"
        )
    return flat


def _rows(layout: Layout, fragment: Fragment, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Views of the fragment's rows; every shape is checked before anything is written."""
    specs = {spec.name: spec for spec in layout.tensors}
    return [_view(piece, specs[piece.name], tensors) for piece in fragment.pieces]


def _view(piece: Piece, spec: TensorSpec, tensors: Mapping[str, Tensor]) -> Tensor:
    if piece.name not in tensors:
        raise ValueError(f"{piece.name} is in the layout but not among the tensors")
    tensor = tensors[piece.name]
    if tuple(tensor.shape) != spec.shape:
        raise ValueError(
            f"{piece.name} has shape {tuple(tensor.shape)}, the layout says {spec.shape}"
        )
    return tensor[piece.row_start : piece.row_stop] if spec.shape else tensor
