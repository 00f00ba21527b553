"""Where a run's figures go: a file of JSON lines always, TensorBoard where it is installed, and
Weights & Biases where it is asked for.

The libraries of the last two are extras, imported when the first figure comes. Must never raise
for a disk that is full, nor write a secret: a sink is given figures and settings of the run file,
which hold none, and W&B finds its own key where its own login left it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from atoll.observe.lines import Lines
from atoll.store.text import write_whole

log = logging.getLogger("atoll.observe")

WandbMode = Literal["off", "offline", "online"]


class SinkError(ValueError):
    """A sink that was asked for cannot be had. The message has the fix."""


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """Which tools get the figures of a run that `atoll train` watches."""

    tensorboard: bool = True
    """Write TensorBoard events where the `tensorboard` extra is installed."""
    wandb: WandbMode = "off"
    """Weights & Biases: off, offline (files in the run folder, for `wandb sync`) or online."""
    wandb_project: str = "atoll"
    """Project there; the run has the run's name."""

    def __post_init__(self) -> None:
        if self.wandb not in get_args(WandbMode):
            choices = ", ".join(get_args(WandbMode))
            raise ValueError(f"observe.wandb = {self.wandb!r}: use one of {choices}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the figures are of: the run, its folder, and its settings as plain values."""

    run: str
    folder: Path
    settings: Mapping[str, Any]


class Sinks:
    """`write` figures at a number of tokens; `close` at the end. Opens nothing before."""

    def __init__(self, settings: ObserveSettings, subject: Subject, file: Path):
        if settings.wandb != "off" and importlib.util.find_spec("wandb") is None:
            raise SinkError(
                f'observe.wandb = "{settings.wandb}" needs the extra: pip install "atoll[wandb]", '
                'or set it to "off"'
            )
        self._settings = settings
        self._subject = subject
        self._lines = Lines(file)
        self._events: Any = None
        self._wandb: Any = None

    def write(self, tokens: int, figures: Mapping[str, float]) -> None:
        """The figures at a moment of the run."""
        self._lines.add({"tokens": tokens, **figures})
        if self._settings.tensorboard and importlib.util.find_spec("tensorboard") is not None:
            self._try(self._to_tensorboard, tokens, figures)
        if self._settings.wandb != "off":
            self._try(self._to_wandb, tokens, figures)

    def close(self) -> None:
        """Write what is held back."""
        events, self._events = self._events, None
        if events is not None:
            self._try(events.close)
        wandb, self._wandb = self._wandb, None
        if wandb is not None:
            self._try(wandb.finish)

    def _try(self, tell: Callable[..., None], *what: object) -> None:
        try:
            tell(*what)
        except OSError as error:
            log.warning("figures are lost on their way to a sink: %s", error)

    def _to_tensorboard(self, tokens: int, figures: Mapping[str, float]) -> None:
        if self._events is None:
            board = importlib.import_module("torch.utils.tensorboard")
            self._events = board.SummaryWriter(str(self._subject.folder / "tensorboard"))
        for name, value in figures.items():
            self._events.add_scalar(f"published/{name}", value, tokens)

    def _to_wandb(self, tokens: int, figures: Mapping[str, float]) -> None:
        if self._wandb is None:
            self._wandb = self._begin_wandb()
        named = {f"published/{name}": value for name, value in figures.items()}
        self._wandb.log({"tokens": tokens, **named})

    def _wandb_id(self) -> str:
        """Kept in the run folder, so that a run that is resumed is one run there too."""
        file = self._subject.folder / "wandb.id"
        if not file.exists():
            write_whole(file, secrets.token_hex(4))
        return file.read_text(encoding="ascii").strip()

    def _begin_wandb(self) -> Any:
        wandb = importlib.import_module("wandb")
        try:
            return wandb.init(
                project=self._settings.wandb_project,
                name=self._subject.run,
                id=self._wandb_id(),
                resume="allow",
                dir=str(self._subject.folder),
                mode=self._settings.wandb,
                config=dict(self._subject.settings),
                save_code=False,
                settings=wandb.Settings(console="off", silent=True, disable_git=True),
            )
        except wandb.Error as error:
            raise SinkError(
                f'W&B cannot be used: {error}; log in with `wandb login`, or set wandb = "offline" '
                'or "off" in [observe]'
            ) from error
