"""One merge of one fragment, for every driver: contributions in, next version out.

    check -> decode -> weigh -> average -> round to bf16 -> outer step -> next published version

Numbers only: no I/O, no clock, no dice, and no say in who is merged or with what weight. State is
never changed, only followed by a new one, so an error leaves it as it was. It must never apply a
displacement other than the bf16 one it returns for the log. Invariants: the outcome does not
depend on the order in which contributions are given; `replay` of a logged displacement gives the
same state and published bytes, bit by bit, whatever backend made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from atoll.fragments.pieces import Fragment
from atoll.merge.averaging import (
    AveragingSettings,
    PieceSums,
    Share,
    average,
    sums_of_squares,
)
from atoll.merge.backends import EAGER, Backend, BackendName
from atoll.merge.chain import Increment, Published, first_version, publish
from atoll.merge.codecs import CODECS, Codec, Payload, encoded_bytes, is_finite, split
from atoll.merge.outer import OuterSettings, OuterState, initial_state, outer_step

SMALLEST_COMPILED_NUMEL = 1 << 18
"""Smaller fragments merge eager: a kernel's call costs more than it saves."""


class MergeError(ValueError):
    """The merge as a whole has no usable outcome; the state is unchanged."""


class ContributionError(ValueError):
    """One contribution cannot be merged; `contribution` names it, the state is unchanged."""

    def __init__(self, contribution: str, reason: str) -> None:
        super().__init__(f"contribution {contribution}: {reason}")
        self.contribution = contribution
        self.reason = reason


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """How a run merges; the same for all fragments."""

    averaging: AveragingSettings = field(default_factory=AveragingSettings)
    outer: OuterSettings = field(default_factory=OuterSettings)
    downlink_codec: Codec = "bf16"

    def __post_init__(self) -> None:
        if self.downlink_codec not in CODECS:
            known = ", ".join(CODECS)
            raise ValueError(f"downlink_codec is {self.downlink_codec!r}: use one of {known}")


@dataclass(frozen=True, slots=True)
class Contribution:
    """A displacement as it travelled. `name` orders and names it; weight and scale are final."""

    name: str
    codec: Codec
    payload: Payload
    weight: float
    scale: float = 1.0
    sums: PieceSums | None = None
    """From `FragmentMerger.sums_of_squares` on arrival; used if the same backend merges."""


@dataclass(frozen=True, slots=True)
class FragmentState:
    """What the syncer owns of a fragment: 12 bytes per parameter with nesterov."""

    theta: Tensor
    outer: OuterState
    published: Published

    @property
    def version(self) -> int:
        return self.published.version


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The next state, what to log (`delta`, bf16) and what to announce (`increment`)."""

    state: FragmentState
    delta: Tensor
    increment: Increment
    backend: BackendName
    fallback_pieces: tuple[str, ...] = ()
    """Tensors whose directions cancelled, so that the mean was taken."""

    @property
    def delta_bytes(self) -> Tensor:
        return self.delta.view(torch.uint8)


class FragmentMerger:
    """The numeric half of one fragment's rounds. Holds no state of the run, only settings."""

    def __init__(
        self, fragment: Fragment, settings: MergeSettings, backend: Backend = EAGER
    ) -> None:
        self.fragment = fragment
        self.settings = settings
        self._backend = backend

    def initial(self, theta: Tensor) -> FragmentState:
        """Version 0, from flat fp32 values."""
        if theta.shape != (self.fragment.numel,) or theta.dtype != torch.float32:
            raise ValueError(f"version 0 must be {self.fragment.numel} flat fp32 values")
        if not is_finite("fp32", theta.contiguous(), theta.numel()):
            raise ValueError("version 0 holds a value that is not finite: check the initial model")
        outer = initial_state(self.settings.outer, theta.numel())
        return FragmentState(theta.clone(), outer, first_version(theta))

    def backend_for(self, codecs: Sequence[Codec]) -> Backend:
        """The given backend where it is ready and the fragment large enough, else eager."""
        return self._backend if self._is_large() and self._backend.is_ready(codecs) else EAGER

    def _is_large(self) -> bool:
        return self.fragment.numel >= SMALLEST_COMPILED_NUMEL

    def sums_of_squares(self, name: str, codec: Codec, payload: Payload) -> PieceSums:
        """Check a payload on arrival. Raises ContributionError on wrong size or value."""
        self._check_size(name, codec, payload)
        is_compiled = self._is_large() and self._backend.has_sums(codec)
        return self._sums(name, codec, payload, self._backend if is_compiled else EAGER)

    def merge(self, state: FragmentState, contributions: Sequence[Contribution]) -> MergeResult:
        """The next version. Raises ContributionError naming the one at fault, or MergeError."""
        ordered = sorted(contributions, key=lambda each: each.name)
        self._check(ordered)
        backend = self.backend_for([each.codec for each in ordered])
        shares = [self._share(each, backend) for each in ordered]
        averaged = average(self.fragment, shares, self.settings.averaging, backend)
        following, increment = self.replay(state, averaged.delta)
        return MergeResult(
            following, averaged.delta, increment, backend.name, averaged.fallback_pieces
        )

    def replay(self, state: FragmentState, delta: Payload) -> tuple[FragmentState, Increment]:
        """Apply a displacement from the log (bf16 values or their bytes), as `merge` did."""
        (values,) = split("bf16", delta, self.fragment.numel)
        if not is_finite("bf16", values, values.numel()):
            raise MergeError("the averaged displacement is not finite")
        outer = self.settings.outer.at(state.version + 1)
        theta, outer_state = outer_step(outer, self.fragment, state.theta, state.outer, values)
        try:
            published, increment = publish(state.published, theta, self.settings.downlink_codec)
        except ValueError as error:
            raise MergeError(f"the outer step left the finite numbers: {error}") from error
        return FragmentState(theta, outer_state, published), increment

    def _check(self, contributions: Sequence[Contribution]) -> None:
        if not contributions:
            raise MergeError("there is nothing to merge: give at least one contribution")
        names = [each.name for each in contributions]
        for each in contributions:
            if names.count(each.name) > 1:
                raise ContributionError(each.name, "is given twice")
            for word, value in (("weight", each.weight), ("scale", each.scale)):
                if not (isfinite(value) and value > 0):
                    raise ContributionError(each.name, f"{word} {value} is not above 0 and finite")
            self._check_size(each.name, each.codec, each.payload)

    def _check_size(self, name: str, codec: Codec, payload: Payload) -> None:
        if codec not in CODECS:
            raise ContributionError(name, f"unknown codec {codec!r}")
        expected = encoded_bytes(codec, self.fragment.numel)
        found = payload.nbytes if not isinstance(payload, bytes | bytearray) else len(payload)
        if found != expected:
            raise ContributionError(name, f"{found} bytes, not {expected} as {codec} needs")

    def _share(self, contribution: Contribution, backend: Backend) -> Share:
        codec, payload = contribution.codec, contribution.payload
        sums = contribution.sums
        if sums is None or sums.backend != backend.name:
            sums = self._sums(contribution.name, codec, payload, backend)
        assert len(sums.values) == len(self.fragment.pieces), "sums of another fragment"
        if not sums.is_finite():
            raise ContributionError(contribution.name, "holds a value that is not finite")
        parts = split(codec, payload, self.fragment.numel)
        return Share(codec, parts, contribution.weight, contribution.scale, sums)

    def _sums(self, name: str, codec: Codec, payload: Payload, backend: Backend) -> PieceSums:
        sums = sums_of_squares(self.fragment, codec, payload, backend)
        if not sums.is_finite():
            raise ContributionError(name, "holds a value that is not finite")
        return sums
