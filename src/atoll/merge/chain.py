"""The published chain: the versions of a fragment as everybody holds them, bit by bit.

    published(v+1) = published(v) + decode(encode(Theta(v+1) - published(v)))

A float32 multiply (inside decode) and a separately rounded add, never fused, so that syncer and
followers on any device have the same bytes; the digest of every version proves it. What a lossy
codec leaves out stays in Theta - published and travels with the next increment.

I/O free. It must never give out an increment whose version or digest does not fit. Invariant: a
follower at version v that applies the increments v+1 .. w holds exactly published(w).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.fragments.raw_bytes import byte_view
from atoll.merge.codecs import Codec, Payload, decode, encode, encoded_bytes

KEPT_INCREMENTS = 8


class DigestMismatchError(ValueError):
    """What a follower holds is not what was published; it needs a full copy."""


@dataclass(frozen=True, slots=True)
class Increment:
    """From version - 1 to `version`; `digest` is that of the outcome."""

    version: int
    codec: Codec
    payload: Payload
    digest: str


@dataclass(frozen=True, slots=True)
class FullCopy:
    """Everything in fp32."""

    version: int
    payload: Payload
    digest: str


CatchUp = tuple[Increment, ...] | FullCopy


@dataclass(frozen=True, slots=True)
class Published:
    """A version of a fragment: the bytes everybody who holds it has. Never written to."""

    version: int
    values: Tensor
    digest: str


def digest_of(values: Tensor) -> str:
    """sha256 over the little-endian fp32 bytes, in hex."""
    assert values.dtype == torch.float32
    return hashlib.sha256(byte_view(values.detach().cpu().contiguous())).hexdigest()


def first_version(theta: Tensor) -> Published:
    """Version 0 is Theta_0 itself."""
    values = theta.clone()
    return Published(0, values, digest_of(values))


@torch.no_grad()
def publish(published: Published, theta: Tensor, codec: Codec) -> tuple[Published, Increment]:
    """The next version. Raises ValueError where the step to it is not finite."""
    difference = theta - published.values
    payload = encode(codec, difference)
    values = _plus(published.values, codec, payload, out=difference)
    following = Published(published.version + 1, values, digest_of(values))
    return following, Increment(following.version, codec, payload, following.digest)


def follow(base: Published, news: CatchUp) -> Published:
    """What a follower does with a catch-up: the next version, checked.

    Raises DigestMismatchError where the outcome is not what was published, ValueError where the
    increments do not start at the base's version or are of the wrong size.
    """
    if isinstance(news, FullCopy):
        return _checked(
            news.version, decode("fp32", news.payload, base.values.numel()), news.digest
        )
    values = base.values
    for version, increment in enumerate(news, start=base.version + 1):
        if increment.version != version:
            raise ValueError(
                f"increment to version {increment.version} cannot follow {version - 1}"
            )
        values = _plus(values, increment.codec, increment.payload)
    return _checked(news[-1].version, values, news[-1].digest) if news else base


def _plus(values: Tensor, codec: Codec, payload: Payload, out: Tensor | None = None) -> Tensor:
    return decode(codec, payload, values.numel(), out).add_(values)


def _checked(version: int, values: Tensor, digest: str) -> Published:
    if (found := digest_of(values)) != digest:
        raise DigestMismatchError(
            f"version {version} should be {digest[:12]}, but is {found[:12]}: fetch a full copy"
        )
    return Published(version, values, digest)


class Chain:
    """The last increments of one fragment and its newest version, for those who lag behind."""

    def __init__(self, published: Published, increments: Sequence[Increment] = ()) -> None:
        self._published = published
        self._increments = deque(increments, maxlen=KEPT_INCREMENTS)

    @property
    def published(self) -> Published:
        return self._published

    @property
    def increments(self) -> tuple[Increment, ...]:
        return tuple(self._increments)

    def append(self, published: Published, increment: Increment) -> None:
        """The next version and how to get there."""
        assert published.version == increment.version == self._published.version + 1
        assert published.digest == increment.digest
        self._published = published
        self._increments.append(increment)

    def catch_up(self, from_version: int | None) -> CatchUp:
        """For a holder of `from_version` (None: of nothing): whichever is fewer bytes."""
        if from_version is not None and not 0 <= from_version <= self._published.version:
            raise ValueError(
                f"version {from_version} was never published; the newest is "
                f"{self._published.version}: drop the base and ask for a full copy"
            )
        missing = self._missing_since(from_version)
        numel = self._published.values.numel()
        if missing is not None:
            missing_bytes = sum(encoded_bytes(each.codec, numel) for each in missing)
            if not missing or missing_bytes < encoded_bytes("fp32", numel):
                return missing
        payload = encode("fp32", self._published.values)
        return FullCopy(self._published.version, payload, self._published.digest)

    def _missing_since(self, from_version: int | None) -> tuple[Increment, ...] | None:
        """None where they are no longer kept."""
        if from_version is None:
            return None
        missing = tuple(each for each in self._increments if each.version > from_version)
        return missing if len(missing) == self._published.version - from_version else None
