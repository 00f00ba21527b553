"""What is to go wrong and when: from a TOML file, or drawn by a seed.

    run = "../../configs/laptop.toml"   the run file, as seen from the plan
    minutes = 10                        how long faults may happen
    seed = 0                            draws the times, kinds and targets of a storm

    [[fault]]                           faults at set times, since everybody trains
    at_s = 20
    kind = "kill"
    who = "island-1"                    not for kinds whose target is the syncer

    [storm]                             and, or instead, a storm
    faults_per_hour = 125
    spares = ["island-0"]               learners that it never kills; other faults they may have
    [storm.mix]                         shares of kinds; those of a storm that names none are usual
    kill = 3
    cut = 1

The same file and seed give the same faults. Must never look at a running process.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from atoll.chaos.kinds import KINDS, SYNCER, kind_named
from atoll.core.settings import SettingsError, unknown_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, `at_s` after everybody trained, for `for_s` (0: an instant)."""

    at_s: float
    kind: str
    who: str = SYNCER
    for_s: float = 0.0

    def __post_init__(self) -> None:
        kind = kind_named(self.kind)
        if not (0 <= self.at_s < float("inf") and 0 <= self.for_s < float("inf")):
            raise SettingsError(f"fault '{self.kind}': at_s and for_s are seconds from 0 on")
        if kind.aim == SYNCER and self.who != SYNCER:
            raise SettingsError(
                f"fault '{self.kind}' is one of the syncer: take out who = '{self.who}'"
            )
        if kind.aim == "learner" and self.who == SYNCER:
            raise SettingsError(f"fault '{self.kind}' needs who, the name of a learner: island-0")
        if self.for_s and not kind.lasts:
            raise SettingsError(f"fault '{self.kind}' is over in an instant: take out for_s")
        if kind.lasts and not self.for_s:
            raise SettingsError(f"fault '{self.kind}' needs for_s: how many seconds it lasts")


@dataclass(frozen=True, slots=True)
class StormSettings:
    """A storm: so many faults, of which kinds, and how much rest whoever was hit has."""

    faults_per_hour: float = 125.0
    mix: dict[str, float] = field(default_factory=dict)
    """Shares of kinds; empty for the usual ones."""
    rest_s: float = 20.0
    """Nobody is hit again so soon after a fault is over."""
    for_scale: float = 1.0
    """How much longer or shorter faults last than they do as a rule."""
    spares: tuple[str, ...] = ()
    """Learners that it never kills, so that they live through the whole run."""

    def __post_init__(self) -> None:
        if not 0 < self.faults_per_hour < float("inf"):
            raise SettingsError("storm.faults_per_hour: set it to a number above 0")
        if not 0 <= self.rest_s < float("inf"):
            raise SettingsError("storm.rest_s: set it to seconds from 0 on")
        if not 0 < self.for_scale < float("inf"):
            raise SettingsError("storm.for_scale: set it to a number above 0")
        for name, share in self.mix.items():
            kind_named(name)
            if not 0 <= share < float("inf"):
                raise SettingsError(f"storm.mix.{name} = {share}: set it to a share from 0 on")
        if self.mix and not any(self.mix.values()):
            raise SettingsError("storm.mix: at least one share has to be above 0")

    @property
    def shares(self) -> dict[str, float]:
        """Of the kinds that take part, in the order of the kinds."""
        usual = {name: kind.share for name, kind in KINDS.items()}
        chosen = self.mix or usual
        return {name: chosen[name] for name in KINDS if chosen.get(name, 0) > 0}


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults at set times, a storm, or both; `minutes` is how long they may happen."""

    run: str
    minutes: float = 10.0
    seed: int = 0
    storm: StormSettings | None = None
    fault: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise SettingsError(f"minutes = {self.minutes}: set it to a number above 0")
        late = [each for each in self.fault if each.at_s + each.for_s > 60 * self.minutes]
        if late:
            raise SettingsError(
                f"fault '{late[0].kind}' at {late[0].at_s:g} s is not over within "
                f"minutes = {self.minutes:g}: make the plan longer, or the fault earlier"
            )
        if self.storm is None and not self.fault:
            raise SettingsError("the plan has no fault: add a [storm] or a [[fault]]")


def is_plan(path: Path) -> bool:
    """Whether a TOML file is a plan: it names a run file where a run file has a table."""
    return isinstance(_read(path).get("run"), str)


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file, or `SettingsError` with the fix."""
    try:
        return parse_plan(_read(path))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_plan(plain: Mapping[str, Any]) -> Plan:
    """A plan from the tables of its file."""
    if "run" not in plain:
        raise SettingsError('run is missing: name the run file, as in run = "laptop.toml"')
    _refuse_unknown(Plan, plain, "")
    tables = dict(plain)
    if "storm" in plain:
        _refuse_unknown(StormSettings, plain["storm"], "[storm] ")
        tables["storm"] = _build(StormSettings, plain["storm"], "[storm] ")
    faults = []
    for number, table in enumerate(plain.get("fault", ()), start=1):
        where = f"[[fault]] {number}: "
        _refuse_unknown(Fault, table, where)
        faults.append(_build(Fault, table, where))
    tables["fault"] = tuple(faults)
    return _build(Plan, tables, "")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no plan or run file {path}: `configs/storms/` has plans"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error


def _refuse_unknown(kind: type[Any], table: Mapping[str, Any], where: str) -> None:
    known = tuple(each.name for each in fields(kind))
    for key in table:
        if key not in known:
            raise SettingsError(f"{where}{unknown_key(key, known)}")


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Check the types of plain values, then make it; its own checks name their fix."""
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        try:
            plain = not isinstance(value, StormSettings | tuple)
            values[key] = msgspec.convert(value, hints[key]) if plain else value
        except msgspec.ValidationError as error:
            raise SettingsError(f"{where}{key}: {error}") from error
    try:
        return kind(**values)
    except TypeError:
        missing = [each.name for each in fields(kind) if each.name not in values]  # type: ignore[arg-type]
        raise SettingsError(f"{where}one of these is missing: {', '.join(missing)}") from None
    except SettingsError as error:
        raise SettingsError(f"{where}{error}") from error
