"""What a run file says, checked as a whole.

    [run] [protocol] [merge] [outer] [service]   what the syncer follows (see `syncer.settings`)
    [train] [train.model] [train.data] ...       what the reference trainer does
    [local]                                      how many learners `atoll train` starts here
    [observe]                                    which tools get the figures of `atoll train`

A setting stands in one place only: the token budget is the run's, and M follows from the learners
started here unless it is given. Unknown keys fail with the nearest known one; nothing is read from
the environment.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from atoll.core.settings import SettingsError, unknown_key
from atoll.observe.sinks import ObserveSettings
from atoll.runfile.toml import dump
from atoll.store.text import write_whole
from atoll.syncer.settings import SyncerSettings, settings_from, settings_to
from atoll.train.settings import PRESETS, TrainSettings

T = TypeVar("T")

SYNCER_KEYS = ("run", "protocol", "merge", "outer", "service", "uplink", "strategy", "seed")


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How `atoll train` runs it all on one machine."""

    learners: int = 3
    """Learner processes to start."""
    threads: int = 1
    """Threads of torch in each of them, and in `atoll learner`."""
    min_step_s: float = 0.0
    """A step takes at least so long, in `atoll learner` too; keeps a small machine at ease."""
    evaluate_every_s: float = 30.0
    """Time between two looks at the published parameters' held-out loss."""
    restarts: int = 20
    """How often a process that died is started again within 10 minutes before the run gives up."""
    max_alone_s: float = 0.0
    """A learner that did not reach the syncer for so long ends; 0 trains on alone."""
    spare: bool = True
    """Keep a process warm that takes over when a learner dies; about 300 MB of memory."""

    def __post_init__(self) -> None:
        for name in ("learners", "threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"local.{name} = {getattr(self, name)}: set it to 1 or more")
        if not 0 < self.evaluate_every_s < float("inf"):
            raise SettingsError("local.evaluate_every_s: set it to a number of seconds above 0")
        times = (self.restarts, self.min_step_s, self.max_alone_s)
        if not all(0 <= each < float("inf") for each in times):
            names = "local.restarts, local.min_step_s and local.max_alone_s"
            raise SettingsError(f"{names}: set them to 0 or more")


@dataclass(frozen=True, slots=True)
class RunFile:
    """A whole run: what the syncer follows, what learners train, what is started here."""

    syncer: SyncerSettings
    train: TrainSettings
    local: LocalSettings
    observe: ObserveSettings = field(default_factory=ObserveSettings)

    @property
    def name(self) -> str:
        """The run's id."""
        return self.syncer.run.run


def read_run_file(path: Path) -> RunFile:
    """The run in a TOML file, or `SettingsError` with the fix."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no run file {path}: `atoll init` writes one, `configs/` has some"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the run file {path}: {error}") from error
    try:
        return parse(plain)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(plain: Mapping[str, Any]) -> RunFile:
    """A run from the tables of a run file."""
    known = (*SYNCER_KEYS, "train", "local", "observe")
    for key in plain:
        if key not in known:
            raise SettingsError(unknown_key(key, known))
    local = _build(LocalSettings, plain.get("local", {}), "local")
    tables = {key: value for key, value in plain.items() if key in SYNCER_KEYS}
    tables["protocol"] = {"M": local.learners, **plain.get("protocol", {})}
    syncer = settings_from(tables)
    train = dict(plain.get("train", {}))
    for key, place in (("budget_tokens", "[run]"), ("seed", "the top of the file")):
        if key in train:
            raise SettingsError(f"train.{key} stands in {place}: move it there")
    train["budget_tokens"], train["seed"] = syncer.run.budget_tokens, syncer.seed
    train["model"] = _with_preset(train.get("model", {}))
    observe = _build(ObserveSettings, plain.get("observe", {}), "observe")
    return RunFile(syncer, _build(TrainSettings, train, "train"), local, observe)


def to_plain(run_file: RunFile) -> dict[str, Any]:
    """The tables that `parse` reads, with every default spelled out."""
    train = msgspec.to_builtins(run_file.train)
    del train["budget_tokens"], train["seed"]
    tables = settings_to(run_file.syncer)
    singles = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in tables.items() if isinstance(value, dict)}
    local = msgspec.to_builtins(run_file.local)
    observe = msgspec.to_builtins(run_file.observe)
    return {**singles, **sections, "train": train, "local": local, "observe": observe}


def write_resolved(path: Path, run_file: RunFile) -> None:
    """The run file with every default spelled out; it can be run again."""
    head = "# The settings of this run, with every default spelled out.\n\n"
    write_whole(path, head + dump(to_plain(run_file)))


def _with_preset(table: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(table)
    preset = changes.pop("preset", "")
    if not preset:
        return changes
    if preset not in PRESETS:
        raise SettingsError(
            f"train.model.preset = {preset!r}: use one of {', '.join(sorted(PRESETS))}"
        )
    base: dict[str, Any] = msgspec.to_builtins(PRESETS[preset])
    return {**base, **changes}


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    _refuse_unknown(kind, table, where)
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"[{where}] {error}") from error


def _refuse_unknown(kind: type[Any], table: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(kind)
    known = tuple(each.name for each in fields(kind))
    for key, value in table.items():
        if key not in known:
            raise SettingsError(f"[{where}] {unknown_key(key, known)}")
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(hints[key], value, f"{where}.{key}")
