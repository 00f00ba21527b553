"""What `GET settings` says of a run: the protocol's settings and how bytes are coded.

Must never take a value that it does not know how to follow: an unknown codec or setting is
refused with both sides' words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from atoll.core.settings import ProtocolSettings, SettingsError, from_mapping
from atoll.ferry.errors import FerryError
from atoll.fragments import Strategy
from atoll.merge.codecs import CODECS, Codec

STRATEGIES = ("balanced", "layer", "strided")


@dataclass(frozen=True, slots=True)
class DataTerms:
    """How the run deals out data; all zero when learners bring their own."""

    dataset_items: int = 0
    num_streams: int = 0
    leases_ahead: int = 2


@dataclass(frozen=True, slots=True)
class RunTerms:
    """How this run is run; the same for every learner."""

    protocol: ProtocolSettings
    uplink: Codec = "bf16"
    downlink: Codec = "bf16"
    num_shards: int = 1
    strategy: Strategy = "balanced"
    seed: int = 0
    data: DataTerms = DataTerms()
    relays_inner: bool = False
    """The syncer hands inner state from one learner to another; older ones do not."""


def terms_from(plain: object) -> RunTerms:
    """The terms in the syncer's JSON. Raises FerryError naming what cannot be followed."""
    if not isinstance(plain, Mapping):
        raise FerryError("the syncer's settings are not a JSON object: is this an Atoll syncer?")
    try:
        protocol = from_mapping(_table(plain, "protocol"))
    except (SettingsError, TypeError) as error:
        raise FerryError(f"the syncer's settings cannot be followed here: {error}") from error
    codecs = _table(plain, "codecs")
    return RunTerms(
        protocol,
        _codec(codecs, "uplink"),
        _codec(codecs, "downlink"),
        _whole(plain, "num_shards", 1),
        _strategy(plain),
        _whole(plain, "seed", 0),
        _data(_table(plain, "data")),
        plain.get("relays_inner") is True,
    )


def _data(plain: Mapping[str, Any]) -> DataTerms:
    items, streams = _whole(plain, "dataset_items", 0), _whole(plain, "num_streams", 0)
    return DataTerms(items, streams, _whole(plain, "leases_ahead", 1))


def _table(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = plain.get(key, {})
    if not isinstance(table, Mapping):
        raise FerryError(f"the syncer's settings have {table!r} as '{key}', not a table")
    return table


def _codec(codecs: Mapping[str, Any], way: str) -> Codec:
    codec = codecs.get(way, "bf16")
    if codec not in CODECS:
        raise FerryError(
            f"the run's {way} codec is {codec!r}, known here are {', '.join(CODECS)}: "
            "install the same version of Atoll on both sides"
        )
    return cast(Codec, codec)


def _whole(plain: Mapping[str, Any], key: str, least: int) -> int:
    value = plain.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FerryError(f"the syncer's settings have {value!r} as '{key}'")
    return value


def _strategy(plain: Mapping[str, Any]) -> Strategy:
    strategy = plain.get("strategy", "balanced")
    if strategy not in STRATEGIES:
        raise FerryError(f"fragments are cut by {strategy!r}, known here are {STRATEGIES}")
    return cast(Strategy, strategy)
