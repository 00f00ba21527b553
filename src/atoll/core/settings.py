"""The protocol's settings, once, with their units, and the checks that make them workable.

Everything here is decided before a run starts. A combination that cannot work is refused with the
fix in the message; an unknown key is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal


class SettingsError(ValueError):
    """A configuration that cannot work. The message names what, why and the fix."""


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """How fragments are called, merged and received.

    M, P, H, K and tau are the method's own letters; `docs/concepts.md` explains them.
    """

    M: int = 3
    """Learners expected to take part."""
    P: int = 24
    """Fragments the parameters are cut into."""
    H: int = 24
    """Steps of the pacing learner between two rounds of one fragment: the launch floor."""
    first_H: int | Literal["H"] = "H"  # noqa: N815  # the method's own letter
    """H between a fragment's first rounds, when learners drift apart fastest; "H" does not grow."""
    growing_rounds: int = 40
    """Rounds of a fragment over which `first_H` grows to H."""
    K: int | Literal["all"] = 1
    """Learners a round needs at least; "all" means M."""
    tau: int | Literal["auto"] = "auto"
    """Steps that a round may take from call to install; "auto" takes the fewest that do."""
    gamma: float = 0.8
    """Share of the slack that may be spent waiting for stragglers, in (0, 1]."""
    min_token_share: float = 0.5
    """Share of the tokens that live learners should hold, below which a round is thin."""
    on_quorum_loss: Literal["wait", "degrade"] = "wait"
    """Below K live learners: merge nothing, or take K as the number that is live."""
    weighting: Literal["quality", "tokens", "uniform"] = "quality"
    """Weight of a contribution: tokens * tokens / steps, tokens, or 1."""
    max_staleness: int = 2
    """A cut whose base is more versions old than this is refused."""
    scale_stale: bool = False
    """Scale a contribution that is s versions stale by 1 / (1 + s)."""
    max_age_steps: int | Literal["auto"] = "auto"
    """Unmerged work of more steps is dropped when a newer version comes; "auto" is 2 H."""
    receipt: Literal["overwrite", "keep", "alpha"] = "overwrite"
    """What becomes of work done after the cut when a merged version is installed."""
    alpha: float = 0.5
    """Share of the learner's own parameters kept under receipt = "alpha"."""
    unmerged: Literal["carry", "drop"] = "carry"
    """What becomes of a learner's work when a version comes that merged none of it."""
    look_ahead: int = 1
    """Steps by which a fragment's first call goes out early, so that it arrives in time."""
    busy_after_steps: float = 3.0
    """Without a step for so many of its own step times a learner counts as busy."""
    silence_s: float = 10.0
    """Without a sign of life for so long a learner counts as away."""
    beat_s: float = 2.0
    """Time between two beats of a learner."""
    first_round_s: float = 30.0
    """Longest a round stays open until upload times have been measured."""
    min_round_s: float = 1.0
    """Shortest deadline of a round."""
    retry_s: float = 1.0
    """First pause before a failed upload, fetch or merge is tried again; doubles up to 60 s."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def quorum(self) -> int:
        """K as a number."""
        return self.M if self.K == "all" else self.K

    @property
    def age_limit_steps(self) -> int:
        """`max_age_steps` as a number."""
        return 2 * self.H if self.max_age_steps == "auto" else self.max_age_steps

    @property
    def tau_limit_steps(self) -> int:
        """The most steps that `tau = "auto"` may take."""
        return max(1, self.H // 2)

    def period_steps(self, version: int) -> int:
        """H after a round of a fragment that was at `version` when it was called."""
        if self.first_H == "H" or version >= self.growing_rounds:
            return self.H
        return self.first_H + (self.H - self.first_H) * max(0, version) // self.growing_rounds

    def rounds_within(self, num_steps: int) -> int:
        """Rounds of a fragment in the first so many steps of a run, the last one whole."""
        version = 0
        while num_steps > 0 and version < self.growing_rounds:
            num_steps -= self.period_steps(version)
            version += 1
        return version + math.ceil(max(0, num_steps) / self.H)

    def installs_at_a_boundary(self, tau: int) -> int:
        """As many as come in tau steps when fragments are merged most often."""
        return math.ceil(tau * self.P / self.period_steps(0))

    def first_offset_steps(self, fragment: int) -> int:
        """The step at which a fragment is first called; staggered over the first H."""
        return (fragment * self.period_steps(0) // self.P) or self.period_steps(0)


def from_mapping(values: Mapping[str, Any]) -> ProtocolSettings:
    """Build settings from a run file's table; `receipt = "paper"` means overwrite and drop."""
    known = tuple(each.name for each in fields(ProtocolSettings))
    for key in values:
        if key not in known:
            raise SettingsError(unknown_key(key, known))
    chosen = dict(values)
    if chosen.get("receipt") == "paper":
        chosen.update(receipt="overwrite", unmerged="drop")
    return replace(ProtocolSettings(), **chosen)


def unknown_key(key: str, known: tuple[str, ...]) -> str:
    """The message for a key nobody knows, with the nearest one that somebody does."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), list(folded), n=1, cutoff=0.5)
    hint = f"did you mean '{folded[near[0]]}'?" if near else f"known are {', '.join(known)}"
    return f"unknown setting '{key}': {hint}"


def _check(s: ProtocolSettings) -> None:
    for name in ("M", "P", "H"):
        _whole(name, getattr(s, name), least=1)
    if s.P > s.H:
        raise SettingsError(
            f"P = {s.P} fragments cannot each be called within H = {s.H} steps: "
            f"set P to {s.H} or less, or H to {s.P} or more"
        )
    _check_growth(s)
    _check_quorum(s)
    _check_overlap(s)
    _check_work(s)
    for name in ("silence_s", "beat_s", "first_round_s", "min_round_s", "retry_s"):
        _positive(name, getattr(s, name))
    if s.beat_s * 2 > s.silence_s:
        raise SettingsError(
            f"silence_s = {s.silence_s} is shorter than two beats of {s.beat_s} s, so learners "
            f"would come and go by chance: set silence_s to {s.beat_s * 2} or more"
        )


def _check_growth(s: ProtocolSettings) -> None:
    _whole("growing_rounds", s.growing_rounds, least=1)
    if s.first_H == "H":
        return
    _whole("first_H", s.first_H, least=1, word="H")
    if s.first_H > s.H:
        raise SettingsError(f"first_H = {s.first_H} grows to H = {s.H}: set it to {s.H} or less")
    if 3 * s.first_H < 2 * s.P:
        raise SettingsError(
            f"first_H = {s.first_H} steps have no room for P = {s.P} fragments: at most two are "
            "cut at a step, and who is late has to catch up. Set first_H to "
            f"{-(-2 * s.P // 3)} or more, or P to {3 * s.first_H // 2} or less"
        )
    if s.tau != "auto" and s.tau >= s.first_H > 1:
        raise SettingsError(
            f"tau = {s.tau} steps of overlap are longer than first_H = {s.first_H}: set tau below "
            "that, or to 'auto'"
        )


def _check_quorum(s: ProtocolSettings) -> None:
    if s.K != "all":
        _whole("K", s.K, least=1, word="all")
        if s.K > s.M:
            raise SettingsError(
                f"K = {s.K} learners can never be there when M = {s.M} are expected: "
                f"set K to {s.M} or less, or M to {s.K} or more"
            )
    _fraction("min_token_share", s.min_token_share)
    _one_of("on_quorum_loss", s.on_quorum_loss, ("wait", "degrade"))
    _one_of("weighting", s.weighting, ("quality", "tokens", "uniform"))


def _check_overlap(s: ProtocolSettings) -> None:
    if s.tau != "auto":
        _whole("tau", s.tau, least=1, word="auto")
        if s.tau >= s.H and s.H > 1:
            raise SettingsError(
                f"tau = {s.tau} steps of overlap leave no step of H = {s.H} in which a fragment "
                f"is at rest: set tau below {s.H}, or to 'auto'"
            )
    if not _is_number(s.gamma) or not 0 < s.gamma <= 1:
        raise SettingsError(
            f"gamma = {s.gamma!r} is a share of the slack: set it above 0 and to 1 or less"
        )
    _whole("look_ahead", s.look_ahead, least=0)
    if s.look_ahead > s.H:
        raise SettingsError(
            f"look_ahead = {s.look_ahead} is longer than a round: set it to H = {s.H} or less"
        )


def _check_work(s: ProtocolSettings) -> None:
    _one_of("receipt", s.receipt, ("overwrite", "keep", "alpha"), also="'paper'")
    _one_of("unmerged", s.unmerged, ("carry", "drop"))
    _fraction("alpha", s.alpha)
    _whole("max_staleness", s.max_staleness, least=0)
    if s.max_age_steps != "auto":
        _whole("max_age_steps", s.max_age_steps, least=1, word="auto")
        if s.max_age_steps < s.H:
            raise SettingsError(
                f"max_age_steps = {s.max_age_steps} would drop work before its round comes after "
                f"H = {s.H} steps: set it to {s.H} or more, or to 'auto'"
            )
    if not isinstance(s.scale_stale, bool):
        raise SettingsError(f"scale_stale = {s.scale_stale!r} is no switch: set it true or false")
    if not _is_number(s.busy_after_steps) or s.busy_after_steps < 1:
        raise SettingsError(
            f"busy_after_steps = {s.busy_after_steps!r} calls a learner busy within a step: "
            "set it to 1 or more"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(name: str, value: object, least: int, word: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        other = f" or '{word}'" if word else ""
        raise SettingsError(f"{name} = {value!r} must be a whole number from {least} on{other}")


def _positive(name: str, value: object) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise SettingsError(f"{name} = {value!r} must be a number of seconds above 0")


def _fraction(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise SettingsError(f"{name} = {value!r} is a share: set it from 0 to 1")


def _one_of(name: str, value: object, choices: tuple[str, ...], also: str = "") -> None:
    if value not in choices:
        text = ", ".join(f"'{choice}'" for choice in choices) + (f" or {also}" if also else "")
        raise SettingsError(f"{name} = {value!r} is not known: choose one of {text}")
