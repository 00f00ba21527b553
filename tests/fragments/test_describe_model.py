"""From models to layouts and back: names, ties, frozen tensors, buffers, dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atoll.fragments import Layout, first_difference
from atoll.fragments.access import gather, scatter_
from atoll.fragments.model import canonical_tensors, describe, tensors_of
from atoll.fragments.names import canonical_names


class TinyModel(nn.Module):
    def __init__(self, tied: bool = True, head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(8, 20, bias=False)
        self.embedding = nn.Embedding(20, 8)
        self.block = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.scalar = nn.Parameter(torch.tensor(0.5))
        if not head_first:
            self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("cache", torch.zeros(3), persistent=False)


def seeded(tied: bool = True) -> TinyModel:
    torch.manual_seed(0)
    return TinyModel(tied)


def names(model: nn.Module) -> list[str]:
    return [spec.name for spec in describe(model).specs]


def test_tied_head_is_the_embedding_once() -> None:
    specs = {spec.name: spec for spec in describe(seeded()).specs}
    assert specs["embedding.weight"].kind == "embedding"
    assert "head.weight" not in specs
    specs = {spec.name: spec for spec in describe(seeded(tied=False)).specs}
    assert specs["head.weight"].kind == "matrix"


def test_tied_head_registered_first_is_still_an_embedding() -> None:
    specs = {spec.name: spec for spec in describe(TinyModel(head_first=True)).specs}
    assert specs["head.weight"].kind == "embedding"
    assert "embedding.weight" not in specs


def test_floating_persistent_buffers_take_part_and_integer_ones_do_not() -> None:
    specs = {spec.name: spec for spec in describe(seeded()).specs}
    assert specs["norm.running_mean"].is_buffer
    assert not specs["norm.weight"].is_buffer
    assert "norm.num_batches_tracked" not in specs
    assert "cache" not in specs


def test_frozen_tensors_are_left_out_and_digested() -> None:
    mine, theirs = seeded(), seeded()
    for model in (mine, theirs):
        model.block.requires_grad_(False)
    assert "block.weight" not in names(mine)
    layout = Layout.from_module(mine, 3)
    assert layout.fingerprint() == Layout.from_module(theirs, 3).fingerprint()
    with torch.no_grad():
        theirs.block.weight[0, 0] += 1
    difference = first_difference(layout, Layout.from_module(theirs, 3))
    assert difference is not None and "frozen tensor block.weight" in difference


def test_frozen_digest_is_of_values_not_of_dtype() -> None:
    model = seeded()
    model.block.requires_grad_(False)
    model.bfloat16()
    rounded = Layout.from_module(model, 3)
    assert rounded.fingerprint() == Layout.from_module(model.float(), 3).fingerprint()


def test_local_dtype_does_not_change_the_fingerprint() -> None:
    full, half = seeded(), seeded().half()
    assert Layout.from_module(full, 3).fingerprint() == Layout.from_module(half, 3).fingerprint()


def test_wrappers_do_not_change_names() -> None:
    plain = ["layer.weight", "layer.module.bias"]
    assert canonical_names(plain) == plain
    wrapped = ["module._orig_mod.layer.weight", "module._orig_mod.layer.module.bias"]
    assert canonical_names(wrapped) == plain
    assert canonical_names(["_orig_mod.module.a", "b._orig_mod.c"]) == ["module.a", "b.c"]
    with pytest.raises(ValueError, match="rename"):
        canonical_names(["a.b", "_orig_mod.a.b"])


def test_compiled_model_has_the_same_layout() -> None:
    compiled = torch.compile(seeded())
    assert isinstance(compiled, nn.Module)
    assert Layout.from_module(compiled, 3) == Layout.from_module(seeded(), 3)


def test_model_without_values_can_be_described() -> None:
    with torch.device("meta"):
        model = TinyModel()
    assert Layout.from_module(model, 3) == Layout.from_module(seeded(), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_fragments", [1, 3, 7])
def test_scatter_then_gather_in_place(dtype: torch.dtype, num_fragments: int) -> None:
    model = seeded().to(dtype)
    layout = Layout.from_module(model, num_fragments)
    tensors = tensors_of(model)
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    generator = torch.Generator().manual_seed(1)
    for index, fragment in enumerate(layout.fragments):
        flat = torch.randn(fragment.numel, generator=generator)
        scatter_(layout, index, flat, tensors)
        assert torch.equal(gather(layout, index, tensors), flat.to(dtype).float())
    assert addresses == {name: tensor.data_ptr() for name, tensor in tensors_of(model).items()}
    assert model.head.weight is model.embedding.weight


def test_fragments_together_are_the_whole_model() -> None:
    model = seeded()
    layout, tensors = Layout.from_module(model, 5), tensors_of(model)
    copies = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    for index in range(layout.num_fragments):
        scatter_(layout, index, gather(layout, index, tensors), copies)
    assert all(torch.equal(copies[name], tensor) for name, tensor in tensors.items())


def test_tensor_that_is_not_contiguous() -> None:
    tensors: dict[str, Tensor] = {"w": torch.arange(12.0).view(3, 4).t()}
    layout = Layout.from_tensors(tensors, 2)
    before = [gather(layout, index, tensors) for index in range(2)]
    assert torch.cat(before).tolist() == tensors["w"].flatten().tolist()
    scatter_(layout, 1, before[1] + 1, tensors)
    assert torch.equal(gather(layout, 0, tensors), before[0])
    assert torch.equal(gather(layout, 1, tensors), before[1] + 1)


def test_wrong_sizes_are_refused_before_anything_is_written() -> None:
    model = seeded()
    layout, tensors = Layout.from_module(model, 1), tensors_of(model)
    with pytest.raises(ValueError, match="fp32 values"):
        scatter_(layout, 0, torch.zeros(3), tensors)
    broken = {**tensors, "norm.running_var": torch.zeros(9)}
    before = gather(layout, 0, tensors)
    with pytest.raises(ValueError, match=r"running_var has shape \(9,\)"):
        scatter_(layout, 0, torch.zeros(layout.numel), broken)
    assert torch.equal(before, gather(layout, 0, tensors))
    del broken["scalar"]
    with pytest.raises(ValueError, match="scalar is in the layout"):
        gather(layout, 0, broken)


def test_from_tensors_takes_ties_once_and_refuses_integers() -> None:
    table = torch.zeros(6, 2)
    tensors = {"_orig_mod.a": table, "b": torch.zeros(2), "c": table}
    assert list(canonical_tensors(tensors)) == ["a", "b"]
    layout = Layout.from_tensors(tensors, 1, embeddings=["c"])
    assert [(spec.name, spec.kind) for spec in layout.tensors] == [
        ("a", "embedding"),
        ("b", "vector"),
    ]
    with pytest.raises(ValueError, match="only floating"):
        Layout.from_tensors({"n": torch.zeros(2, dtype=torch.int64)}, 1)


def difference(mine: dict[str, Tensor], theirs: dict[str, Tensor], fragments: int = 1) -> str:
    sentence = first_difference(
        Layout.from_tensors(mine, 1), Layout.from_tensors(theirs, fragments)
    )
    return sentence or "none"


def test_first_difference_names_the_tensor() -> None:
    a, b, c = torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(5, 2)
    assert difference({"a": a, "b": b}, {"a": a, "b": b}) == "none"
    assert "b has shape (4, 2) here and (5, 2) there" in difference({"b": b}, {"b": c})
    assert "b takes part here but not there" in difference({"a": a, "b": b}, {"a": a})
    assert "c takes part there but not here" in difference({"a": a}, {"a": a, "c": c})
    assert "the order differs" in difference({"a": a, "b": b}, {"b": b, "a": a})
    assert "1 fragments here and 2 there" in difference({"a": a}, {"a": a}, fragments=2)


def test_first_difference_says_where_it_is_frozen() -> None:
    mine, theirs = seeded(), seeded()
    theirs.block.requires_grad_(False)
    sentence = first_difference(Layout.from_module(mine, 2), Layout.from_module(theirs, 2))
    assert sentence == "block.weight takes part here but not there, for there it is frozen"
