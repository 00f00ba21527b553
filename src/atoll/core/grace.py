"""How long a round that has its quorum waits for the others, and how much overlap that takes.

The slack of a round is what tau steps of overlap leave after the quorum has formed and the merge
has been made and sent; a share gamma of it may be waited. All times are smoothed measurements.
"""

from __future__ import annotations

from atoll.core.settings import ProtocolSettings

SMOOTHING = 0.2


def smooth(old: float, new: float) -> float:
    """An exponential moving average that begins with its first value."""
    return new if old <= 0 else old + SMOOTHING * (new - old)


def median(values: list[float]) -> float:
    """The lower median, 0 for nothing."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0


def grace_s(settings: ProtocolSettings, tau: int, step_s: float, spent_s: float) -> float:
    """gamma * (tau * xi_step - xi_quorum - xi_sync), never below zero; spent_s is both xi."""
    return max(0.0, settings.gamma * (tau * step_s - spent_s))


def longest_grace_s(settings: ProtocolSettings, tau: int, step_s: float) -> float:
    """The wait after which a round may go below the token share."""
    return settings.gamma * tau * step_s


def fewest_steps(settings: ProtocolSettings, step_s: float, needed_s: float) -> int:
    """tau = auto: the fewest whole steps that cover `needed_s` from call to install."""
    if step_s <= 0:
        return min(2, settings.tau_limit_steps)
    tau = 1
    while tau < settings.tau_limit_steps and tau * step_s < needed_s:
        tau += 1
    return tau
