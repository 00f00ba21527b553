"""The cut: complete, balanced, the same everywhere, refused where impossible."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.fragments import Kind, Layout, TensorSpec

shapes = st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple)


@st.composite
def spec_lists(draw: st.DrawFn) -> list[TensorSpec]:
    specs = []
    for index, shape in enumerate(draw(st.lists(shapes, min_size=1, max_size=12))):
        is_table = len(shape) > 1 and draw(st.booleans())
        kind: Kind = "embedding" if is_table else "matrix" if len(shape) > 1 else "vector"
        specs.append(TensorSpec(f"layer.{index}.weight", shape, kind))
    return specs


def gpt_specs(num_layers: int = 12, width: int = 64, vocabulary: int = 1000) -> list[TensorSpec]:
    specs = [TensorSpec("embedding.weight", (vocabulary, width), "embedding")]
    for layer in range(num_layers):
        for name, rows in (("qkv", 3), ("out", 1), ("up", 4), ("down", 4)):
            specs.append(TensorSpec(f"h.{layer}.{name}", (rows * width, width), "matrix"))
        specs.append(TensorSpec(f"h.{layer}.norm", (width,), "vector"))
    return [*specs, TensorSpec("norm.weight", (width,), "vector")]


@settings(max_examples=150, deadline=None)
@given(specs=spec_lists(), num_fragments=st.integers(1, 30))
def test_balanced_is_complete_and_within_four_thirds_plus_a_piece(
    specs: list[TensorSpec], num_fragments: int
) -> None:
    num_rows = sum(spec.num_rows for spec in specs)
    if num_fragments > num_rows:
        with pytest.raises(ValueError, match=f"set num_fragments to {num_rows} or less"):
            Layout.from_specs(specs, num_fragments)
        return
    layout = Layout.from_specs(specs, num_fragments)
    layout.check()
    assert layout.num_fragments == num_fragments
    assert sum(fragment.numel for fragment in layout.fragments) == layout.numel
    largest = max(fragment.numel for fragment in layout.fragments)
    pieces = [piece for fragment in layout.fragments for piece in fragment.pieces]
    optimum_at_least = layout.numel / num_fragments
    assert largest <= optimum_at_least * 4 / 3 + max(piece.numel for piece in pieces)


@given(specs=spec_lists())
@settings(max_examples=30, deadline=None)
def test_same_description_gives_same_layout(specs: list[TensorSpec]) -> None:
    num_fragments = min(3, sum(spec.num_rows for spec in specs))
    first = Layout.from_specs(specs, num_fragments)
    again = Layout.from_specs([*specs], num_fragments)
    assert first == again
    assert first.fingerprint() == again.fingerprint()
    assert Layout.from_dict(first.to_dict()) == first


def test_a_gpt_is_balanced_with_its_embedding_apart() -> None:
    layout = Layout.from_specs(gpt_specs(), 24)
    for fragment in layout.fragments:
        kinds = {piece.kind for piece in fragment.pieces}
        assert "embedding" not in kinds or kinds == {"embedding"}
    assert max(f.numel for f in layout.fragments) <= layout.numel / 24 * 4 / 3


def test_embedding_is_mixed_in_where_apart_would_not_balance() -> None:
    specs = [TensorSpec("table", (10, 10), "embedding"), TensorSpec("w", (90, 10), "matrix")]
    layout = Layout.from_specs(specs, 2)
    assert max(fragment.numel for fragment in layout.fragments) <= 500 * 4 / 3


def test_large_tensor_is_split_along_its_first_dimension() -> None:
    layout = Layout.from_specs([TensorSpec("w", (100, 7), "matrix")], 4)
    rows = sorted((f.pieces[0].row_start, f.pieces[0].row_stop) for f in layout.fragments)
    assert rows == [(0, 25), (25, 50), (50, 75), (75, 100)]


def test_one_unsplittable_row_leaves_no_fragment_empty() -> None:
    specs = [TensorSpec("wide", (1, 1000), "matrix"), TensorSpec("tall", (30, 1), "matrix")]
    layout = Layout.from_specs(specs, 10)
    assert all(fragment.numel > 0 for fragment in layout.fragments)


def test_layer_keeps_neighbours_together_and_strided_spreads_them() -> None:
    specs = gpt_specs(num_layers=4)
    by_layer = Layout.from_specs(specs, 3, "layer")
    strided = Layout.from_specs(specs, 3, "strided")
    layers = [{piece.name.split(".")[1] for piece in f.pieces} for f in by_layer.fragments]
    assert layers == [{"weight", "0"}, {"1", "2"}, {"3", "weight"}]
    layers = [{piece.name.split(".")[1] for piece in f.pieces} for f in strided.fragments]
    assert layers == [{"weight", "2"}, {"0", "3"}, {"1", "weight"}]


def test_more_fragments_than_layers_names_the_fix() -> None:
    with pytest.raises(ValueError, match="6 or less, or the strategy to 'balanced'"):
        Layout.from_specs(gpt_specs(num_layers=4), 7, "layer")


@pytest.mark.parametrize("num_fragments", [0, -1])
def test_no_fragment_is_refused(num_fragments: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Layout.from_specs(gpt_specs(), num_fragments)


def test_nothing_to_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor takes part"):
        Layout.from_specs([], 1)


def test_a_changed_dict_is_no_layout() -> None:
    plain = Layout.from_specs(gpt_specs(), 4).to_dict()
    plain["fragments"][1].pop()
    with pytest.raises(ValueError, match="not a layout"):
        Layout.from_dict(plain)
