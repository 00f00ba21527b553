"""What a plan is asked for. Everything has a unit in its name; 0 stands for free or unlimited."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from atoll.core.settings import SettingsError, unknown_key

T = TypeVar("T")

TOKENS_PER_PARAM = 20
"""Tokens to train where neither tokens nor money are given: about the compute-optimal number."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place with chips that act as one learner, and its line to the syncer."""

    name: str
    step_s: float
    """Seconds of one optimizer step."""
    step_tokens: int = 1_000_000
    """Tokens of one optimizer step."""
    up_mbit_s: float = 1000.0
    """Line towards the syncer; 0 for one that never limits."""
    down_mbit_s: float = 1000.0
    latency_ms: float = 40.0
    """One way."""
    chips: int = 1
    mtbi_years: float = 0.0
    """Mean time between interruptions of one chip; 0: they never fail."""
    interruptions_per_hour: float = 0.0
    """How often the whole site is taken away, as spot machines are."""
    return_s: float = 600.0
    """Until it is back after that."""
    price_per_hour: float = 0.0
    egress_per_gb: float = 0.0

    def __post_init__(self) -> None:
        _positive(f"site {self.name!r}", self, ("step_s", "step_tokens", "chips"))
        _not_negative(f"site {self.name!r}", self)

    @property
    def tokens_s(self) -> float:
        """Tokens per second while it trains."""
        return self.step_tokens / self.step_s


@dataclass(frozen=True, slots=True)
class SyncerPlace:
    """Where the syncer runs: a machine without accelerator."""

    up_mbit_s: float = 0.0
    """Line of the syncer, what it sends; 0 for one that never limits."""
    down_mbit_s: float = 0.0
    cores: int = 32
    disk_mb_s: float = 2000.0
    price_per_hour: float = 0.0
    egress_per_gb: float = 0.0

    def __post_init__(self) -> None:
        _positive("syncer", self, ("cores", "disk_mb_s"))
        _not_negative("syncer", self)


@dataclass(frozen=True, slots=True)
class Ask:
    """A whole question. `tokens` or `budget_money`, not both; neither: 20 tokens per parameter."""

    params: int
    sites: tuple[Site, ...]
    syncer: SyncerPlace = field(default_factory=SyncerPlace)
    run: str = "planned"
    tokens: int = 0
    budget_money: float = 0.0

    def __post_init__(self) -> None:
        if self.params < 1:
            raise SettingsError(f"params = {self.params}: set it to 1 or more")
        if not self.sites:
            raise SettingsError("no site is named: write a [[site]] for each place that has chips")
        names = [each.name for each in self.sites]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"two sites are called {name!r}: give each its own name")
        if self.tokens < 0 or self.budget_money < 0:
            raise SettingsError("tokens and budget_money: set them to 0 or more")
        if self.tokens and self.budget_money:
            raise SettingsError("tokens and budget_money are both given: leave one of them out")
        prices = [each.price_per_hour for each in self.sites]
        if self.budget_money and not any(prices):
            raise SettingsError("budget_money needs prices: set price_per_hour of the sites")


def read_ask(path: Path) -> Ask:
    """The question in a TOML file: [model] or params, [[site]], [syncer], a budget."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the plan's question {path}: {error}") from error
    try:
        return ask_from(plain)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def ask_from(plain: Mapping[str, Any]) -> Ask:
    """A question from plain tables; unknown keys are refused with the nearest known one."""
    known = (*(each.name for each in fields(Ask) if each.name != "sites"), "site")
    _refuse_unknown(plain, known, "")
    if "params" not in plain:
        raise SettingsError("params is missing: the number of parameters, such as params = 12e9")
    single = {key: plain[key] for key in ("run", "budget_money") if key in plain}
    sites = plain.get("site", [])
    if not isinstance(sites, list):
        raise SettingsError("[site] is one table: write [[site]], once for each place")
    return Ask(
        params=_whole("params", plain["params"]),
        sites=tuple(_table(Site, each, "[[site]] ") for each in sites),
        syncer=_table(SyncerPlace, plain.get("syncer", {}), "[syncer] "),
        tokens=_whole("tokens", plain.get("tokens", 0)),
        **single,
    )


def _table(kind: type[T], plain: Any, where: str) -> T:
    if not isinstance(plain, Mapping):
        raise SettingsError(f"{where}is no table of settings")
    names = tuple(each.name for each in fields(kind))  # type: ignore[arg-type]
    _refuse_unknown(plain, names, where)
    values = dict(plain)
    if isinstance(values.get("step_tokens"), float):
        values["step_tokens"] = round(values["step_tokens"])
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}{error}") from error


def _refuse_unknown(plain: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in plain:
        if key not in known:
            raise SettingsError(where + unknown_key(key, known))


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(f"{name} = {value!r} is no number: write it as 12e9")
    return round(value)


def _positive(who: str, owner: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 < getattr(owner, name) < float("inf"):
            raise SettingsError(f"{who}: {name} = {getattr(owner, name)}: set it above 0")


def _not_negative(who: str, owner: Any) -> None:
    for each in fields(owner):
        value = getattr(owner, each.name)
        if not isinstance(value, str) and not 0 <= value < float("inf"):
            raise SettingsError(f"{who}: {each.name} = {value}: set it to 0 or more")
