"""The layout: which rows of which tensor lie where in which fragment.

Plain data, standard library only. A layout is computed once from an ordered description of the
tensors and is the same for every party that computes it. It must never depend on local dtype,
device, memory addresses or the order of a set.

Invariant: the pieces of all fragments cover every row of every tensor exactly once, and within a
fragment they lie one behind the other without gaps (`Layout.check` asserts it).

A fragment holds only its own rows and merges alone. So where a tensor is cut by rows, the unit of
the merge rule (RDA's norms and directions) is the *piece*, not the whole tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast, get_args

from atoll.fragments.cut import cut
from atoll.fragments.pieces import Fragment, Piece, Strategy, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layout:
    """What takes part, and how it is cut; equal for every party of a run."""

    tensors: tuple[TensorSpec, ...]
    fragments: tuple[Fragment, ...]
    strategy: Strategy
    frozen_digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each tensor that is left out because it is frozen, by canonical name."""

    @classmethod
    def from_specs(
        cls,
        tensors: Sequence[TensorSpec],
        num_fragments: int,
        strategy: Strategy = "balanced",
        frozen_digests: Mapping[str, str] | None = None,
    ) -> Layout:
        """Cut `tensors` into fragments. Raises ValueError where that many cannot be had."""
        fragments = cut(tensors, num_fragments, strategy)
        layout = cls(tuple(tensors), fragments, strategy, dict(frozen_digests or {}))
        layout.check()
        return layout

    @classmethod
    def from_module(
        cls, model: nn.Module, num_fragments: int, strategy: Strategy = "balanced"
    ) -> Layout:
        """The layout of a model: parameters that train, and floating persistent buffers."""
        from atoll.fragments.model import describe

        description = describe(model)
        return cls.from_specs(
            description.specs, num_fragments, strategy, description.frozen_digests()
        )

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        num_fragments: int,
        strategy: Strategy = "balanced",
        embeddings: Sequence[str] = (),
    ) -> Layout:
        """The layout of named tensors, all of which take part; `embeddings` names the tables.

        `gather` and `scatter_` then take `canonical_tensors(tensors)`.
        """
        from atoll.fragments.model import specs_of_tensors

        return cls.from_specs(specs_of_tensors(tensors, embeddings), num_fragments, strategy)

    @property
    def num_fragments(self) -> int:
        return len(self.fragments)

    @property
    def numel(self) -> int:
        return sum(spec.numel for spec in self.tensors)

    def fingerprint(self) -> str:
        """sha256 over names, shapes, kinds, order, the cut and the frozen tensors' digests."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal layout back."""
        return {
            "strategy": self.strategy,
            "tensors": [asdict(spec) | {"shape": list(spec.shape)} for spec in self.tensors],
            "fragments": [[asdict(piece) for piece in f.pieces] for f in self.fragments],
            "frozen": dict(self.frozen_digests),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Layout:
        """Read what `to_dict` wrote. Raises ValueError if it does not describe a layout."""
        try:
            layout = cls(
                tuple(_spec_from_dict(spec) for spec in plain["tensors"]),
                tuple(Fragment(tuple(Piece(**p) for p in f)) for f in plain["fragments"]),
                cast(Strategy, plain["strategy"]),
                dict(plain["frozen"]),
            )
            layout.check()
        except (KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"not a layout, or one of another version: {error!r}") from error
        return layout

    def check(self) -> None:
        """Assert the invariant in this module's docstring."""
        assert self.strategy in get_args(Strategy), self.strategy
        specs = {spec.name: spec for spec in self.tensors}
        assert len(specs) == len(self.tensors), "a tensor is named twice"
        next_row = dict.fromkeys(specs, 0)
        for piece in sorted(_all_pieces(self.fragments), key=lambda p: p.row_start):
            spec = specs[piece.name]
            num_rows = piece.row_stop - piece.row_start
            assert piece.row_start == next_row[piece.name], f"rows of {piece.name} do not join"
            assert piece.numel == num_rows * spec.row_numel > 0, f"size of {piece.name}"
            assert (piece.kind, piece.is_buffer) == (spec.kind, spec.is_buffer), piece.name
            next_row[piece.name] = piece.row_stop
        for spec in self.tensors:
            assert next_row[spec.name] == spec.num_rows, f"rows of {spec.name} are missing"
        for fragment in self.fragments:
            _check_offsets(fragment)


def _check_offsets(fragment: Fragment) -> None:
    assert fragment.pieces, "a fragment is empty"
    offset = 0
    for piece in fragment.pieces:
        assert piece.offset == offset, f"gap before {piece.name}"
        offset = piece.stop


def _all_pieces(fragments: Sequence[Fragment]) -> Iterator[Piece]:
    for fragment in fragments:
        yield from fragment.pieces


def _spec_from_dict(plain: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**plain, "shape": tuple(plain["shape"])})


def canonical_json(plain: object) -> bytes:
    """One byte string for equal values: sorted keys, no spaces, ASCII."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
