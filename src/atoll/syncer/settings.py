"""What a syncer is told before it starts, checked, from a small JSON or TOML file or in-process.

A run's layout is not among it: the first learner brings that. Nothing is read from the
environment. An unknown key is refused with the nearest known one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from atoll.access.addresses import parse_address
from atoll.access.errors import AccessError
from atoll.core.coordinator_state import RunSettings, check_together
from atoll.core.settings import ProtocolSettings, SettingsError, from_mapping, unknown_key
from atoll.fragments import Strategy
from atoll.merge.averaging import AveragingSettings
from atoll.merge.codecs import CODECS, Codec
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import RAMP_STEPS, OuterSettings
from atoll.store.retention import Retention
from atoll.store.runs import checked_name

PENDING_LAYOUT = "pending"
"""Stands for the layout's fingerprint until the first learner has brought the layout."""
STRATEGIES: tuple[Strategy, ...] = ("balanced", "layer", "strided")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The process itself: where it listens, and what it may take."""

    host: str = "127.0.0.1"
    """Address to listen at; off the loopback only with TLS."""
    port: int = 0
    """0 takes any free port."""
    standby: str = ""
    """`host:port` under which learners reach a standby; the invite names it beside the syncer's."""
    memory_bytes: int = 4 << 30
    """Most memory for contributions that are arriving or waiting for their merge."""
    hello_s: float = 10.0
    """A new control connection has so long to say who it is."""
    queue_bytes: int = 8 << 20
    """Control frames a learner may leave unread before it is disconnected."""
    upload_idle_s: float = 60.0
    """An upload without a new part for so long is forgotten."""
    snapshot_every_merges: int = 200
    """Merges between two snapshots in the background."""
    snapshot_every_s: float = 600.0
    """Longest time between two snapshots while merges go on."""
    keep_snapshots: int = 2
    """The newest snapshots stay, with the log since the oldest of them: all but one may be damaged
    before a restart is in danger."""
    keep_every_tokens: int = 0
    """A snapshot is written, and stays for good, whenever the run has trained so many tokens more;
    0 for none. `atoll export --list` shows them."""
    pinned_snapshots: tuple[int, ...] = ()
    """Snapshots that stay as long as they stand here, by the number that `atoll export --list`
    gives them."""
    merge_threads: int = 1
    """Merges at the same time, of different fragments."""
    tape_payloads: bool = False
    """Keep every contribution beside the tapes, so that `atoll replay` can merge again. Takes the
    disk that all uploads together have."""
    compile_merges: bool = False
    """Compile the merge's inner loops in the background; needs a C++ compiler."""
    initial_file: str = ""
    """Safetensors file with version 0, for initial = "file"."""

    def __post_init__(self) -> None:
        sizes = ("memory_bytes", "queue_bytes", "snapshot_every_merges", "merge_threads")
        for name in (*sizes, "keep_snapshots"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)!r}: set it to 1 or more")
        for name in ("hello_s", "upload_idle_s", "snapshot_every_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} = {getattr(self, name)!r}: set it above 0 seconds")
        if not 0 <= self.port < 1 << 16:
            raise SettingsError(f"port = {self.port}: set it from 0 (any free one) to 65535")
        if self.keep_every_tokens < 0:
            text = "set it to 0 (none) or to a number of tokens"
            raise SettingsError(f"keep_every_tokens = {self.keep_every_tokens}: {text}")
        if self.standby:
            try:
                parse_address(self.standby)
            except AccessError as error:
                raise SettingsError(f"standby: {error}") from error

    @property
    def retention(self) -> Retention:
        """Which snapshots stay, in the store's words."""
        pinned = frozenset(self.pinned_snapshots)
        return Retention(self.keep_snapshots, self.keep_every_tokens, pinned)


@dataclass(frozen=True, slots=True)
class SyncerSettings:
    """All of one run's settings that its syncer follows or hands out."""

    run: RunSettings
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    uplink: Codec = "bf16"
    """How learners encode displacements."""
    strategy: Strategy = "balanced"
    """How learners cut parameters into fragments."""
    seed: int = 0
    """Seed of the run's data order, handed to learners."""

    def __post_init__(self) -> None:
        checked_name(self.run.run)
        check_together(self.protocol, self.run)
        if self.uplink not in CODECS:
            raise SettingsError(f"uplink = {self.uplink!r}: use one of {', '.join(CODECS)}")
        if self.strategy not in STRATEGIES:
            raise SettingsError(f"strategy = {self.strategy!r}: use one of {', '.join(STRATEGIES)}")
        if (self.run.initial == "file") != bool(self.service.initial_file):
            raise SettingsError(
                f"initial = {self.run.initial!r} and initial_file = {self.service.initial_file!r} "
                "do not go together: give both for version 0 from a file, or neither"
            )

    def numbers(self) -> dict[str, Any]:
        """What a replay of the log depends on; it never changes during a run."""
        plain: dict[str, Any] = msgspec.to_builtins(self.merge)
        return {"merge": plain, "P": self.protocol.P, "num_shards": self.run.num_shards}

    def for_learners(self, epoch: int, layout: str) -> dict[str, Any]:
        """What `GET settings` answers."""
        run = self.run
        return {
            "run": run.run,
            "epoch": epoch,
            "layout": layout,
            "protocol": msgspec.to_builtins(self.protocol),
            "codecs": {"uplink": self.uplink, "downlink": self.merge.downlink_codec},
            "num_shards": run.num_shards,
            "strategy": self.strategy,
            "seed": self.seed,
            "relays_inner": True,
            "budget_tokens": run.budget_tokens,
            "data": {
                "dataset_items": run.dataset_items,
                "lease_items": run.lease_items,
                "num_streams": run.num_streams,
                "leases_ahead": run.leases_ahead,
            },
        }


def read_settings(path: Path) -> SyncerSettings:
    """The settings in a JSON or TOML file, by its suffix."""
    try:
        text = path.read_text(encoding="utf-8")
        plain = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SettingsError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(plain, dict):
        raise SettingsError(f"{path} holds no table of settings")
    return settings_from(plain)


def settings_from(plain: Mapping[str, Any]) -> SyncerSettings:
    """Settings from tables `run`, `protocol`, `merge`, `outer`, `service`, and single values."""
    known = ("run", "protocol", "merge", "outer", "service", "uplink", "strategy", "seed")
    for key in plain:
        if key not in known:
            raise SettingsError(unknown_key(key, known))
    tables = {
        name: plain.get(name, {}) for name in ("run", "protocol", "merge", "outer", "service")
    }
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise SettingsError(f"{name} = {table!r}: this is a table of settings")
    protocol = from_mapping(tables["protocol"])
    return SyncerSettings(
        _build(RunSettings, {"layout": PENDING_LAYOUT, **tables["run"]}),
        protocol,
        _merge_from(tables["merge"], tables["outer"], protocol),
        _build(ServiceSettings, tables["service"]),
        cast(Codec, plain.get("uplink", "bf16")),
        cast(Strategy, plain.get("strategy", "balanced")),
        int(plain.get("seed", 0)),
    )


def _merge_from(
    table: Mapping[str, Any], outer: Mapping[str, Any], protocol: ProtocolSettings
) -> MergeSettings:
    averaging = dict(table)
    downlink = averaging.pop("downlink_codec", "bf16")
    try:
        found = _build(OuterSettings, outer)
        merges = protocol.rounds_within(RAMP_STEPS)
        if found.ramp_merges == "auto" and found.num_ramp_merges not in (0, merges):
            found = replace(found, ramp_merges=merges)
        return MergeSettings(_build(AveragingSettings, averaging), found, downlink)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def settings_to(settings: SyncerSettings) -> dict[str, Any]:
    """The tables of `settings_from`; plain values that JSON can hold."""
    run: dict[str, Any] = msgspec.to_builtins(settings.run)
    del run["layout"]
    merge: dict[str, Any] = msgspec.to_builtins(settings.merge)
    return {
        "run": run,
        "protocol": msgspec.to_builtins(settings.protocol),
        "merge": {**merge["averaging"], "downlink_codec": merge["downlink_codec"]},
        "outer": merge["outer"],
        "service": msgspec.to_builtins(settings.service),
        "uplink": settings.uplink,
        "strategy": settings.strategy,
        "seed": settings.seed,
    }


def _build(kind: type[T], table: Mapping[str, Any]) -> T:
    known = tuple(each.name for each in fields(cast(Any, kind)))
    for key in table:
        if key not in known:
            raise SettingsError(unknown_key(key, known))
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error
