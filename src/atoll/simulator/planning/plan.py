"""A whole plan: settings, expectations and cost, a sentence for each, and what holds it back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from atoll.simulator.bandwidth import gigabits
from atoll.simulator.planning.ask import TOKENS_PER_PARAM, Ask
from atoll.simulator.planning.baseline import data_parallel_step_s, data_parallel_tokens_s
from atoll.simulator.planning.choice import LINE_SHARE, ROUNDS, Chosen, choose, tau_steps
from atoll.simulator.planning.needs import (
    Choice,
    Cost,
    LearnerMemory,
    LineNeed,
    SyncerNeed,
    cost,
    learner_memory,
    line_need,
    pacing_step_s,
    syncer_need,
)
from atoll.simulator.planning.outlook import Outlook, chips_left, outlook, site_left

GB = 1e9
HOUR_S = 3600.0
WORTH_SAYING = 0.02
"""A loss below this is no bottleneck."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One setting or expectation: its value in words, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    ask: Ask
    choice: Choice
    K: int
    tau_steps: int
    lines: tuple[LineNeed, ...]
    syncer: SyncerNeed
    memory: LearnerMemory
    outlook: Outlook
    tokens: int
    hours: float
    cost: Cost
    data_parallel_step_s: float
    times_data_parallel: float
    left_out: tuple[str, ...]
    trouble: str
    passed: tuple[str, ...]

    @property
    def tokens_s(self) -> float:
        """Trained by all sites together, failures counted."""
        return self.outlook.trained * sum(each.tokens_s for each in self.ask.sites)


def make_plan(ask: Ask) -> Plan:
    """Choose, estimate, compare."""
    chosen = choose(ask)
    ask, choice = chosen.ask, chosen.choice
    tau = tau_steps(ask, choice)
    expected = outlook(ask, choice)
    rate = expected.trained * sum(each.tokens_s for each in ask.sites)
    tokens = _tokens(ask, choice, rate)
    hours = tokens / rate / HOUR_S
    whole = sum(each.tokens_s for each in ask.sites)
    return Plan(
        ask,
        choice,
        K=1,
        tau_steps=tau,
        lines=tuple(line_need(ask, choice, each) for each in ask.sites),
        syncer=syncer_need(ask, choice, tau),
        memory=learner_memory(ask.params, choice),
        outlook=expected,
        tokens=tokens,
        hours=hours,
        cost=cost(ask, choice, hours),
        data_parallel_step_s=data_parallel_step_s(ask),
        times_data_parallel=expected.goodput * whole / data_parallel_tokens_s(ask),
        left_out=chosen.left_out,
        trouble=chosen.trouble,
        passed=_worth_keeping(chosen),
    )


def _worth_keeping(chosen: Chosen) -> tuple[str, ...]:
    return chosen.passed if not chosen.trouble else chosen.passed[-1:]


def _tokens(ask: Ask, choice: Choice, tokens_s: float) -> int:
    if ask.budget_money:
        per_hour = cost(ask, choice, 1.0).total
        return max(1, round(ask.budget_money / per_hour * HOUR_S * tokens_s))
    return ask.tokens or TOKENS_PER_PARAM * ask.params


# ---------------------------------------------------------------- in words


def settings_advice(plan: Plan) -> list[Advice]:
    """M, P, H, tau, K and precision."""
    choice, num = plan.choice, len(plan.ask.sites)
    out = f", without {', '.join(plan.left_out)}, whose line is too thin" if plan.left_out else ""
    why_H = (
        "longer rounds than the default of 24, which do not fit at any precision"
        if ROUNDS[0] < choice.H
        else "the published default, the shortest round of known quality"
    )
    why_P = (
        "as many as steps in a round, so one leaves with every step and the peak is the average"
        if choice.P == choice.H
        else "a small model: smaller parts would cost more in messages than in values"
    )
    return [
        Advice("M", str(num), f"one learner for each site{out}"),
        Advice("P", str(choice.P), why_P),
        Advice("H", str(choice.H), f"{why_H}; a round lasts {_time(_round_s(plan))}"),
        Advice("tau", f"auto, about {plan.tau_steps}", _why_tau(plan)),
        Advice("K", str(plan.K), "nobody is waited for but in the grace window; rounds go on when "
               "sites are away, and a round below half of the tokens is held back"),
        Advice("precision", f"{choice.up} up, {choice.down} down", _why_precision(plan)),
    ]  # fmt: skip


def expectation_advice(plan: Plan) -> list[Advice]:
    """Goodput, bandwidth, memory, disk, join time, days and cost."""
    expected, syncer, memory = plan.outlook, plan.syncer, plan.memory
    fullest = max(plan.lines, key=lambda each: each.share)
    joins = max(plan.lines, key=lambda each: each.join_s)
    return [
        Advice("goodput", f"{expected.goodput:.1%}", _why_goodput(plan)),
        Advice("participation", f"{expected.participation:.1%}",
               "learners merged / live in a round, by the cores on these lines in virtual time"),
        Advice("line of a learner", _rates(fullest.up_bytes_s, fullest.down_bytes_s),
               f"up / down, fullest at {fullest.site}: {fullest.share:.0%} of it"),
        Advice("line of the syncer", _rates(syncer.out_bytes_s, syncer.in_bytes_s),
               "up / down, all learners together"),
        Advice("syncer's memory", _size(syncer.memory_bytes),
               "12 bytes per parameter with momentum, the last 8 increments of every part, "
               f"{_size(syncer.contribution_bytes)} of contributions on their way, merges"),
        Advice("syncer's cores", str(syncer.merge_threads),
               f"merge threads at {plan.ask.params / plan.choice.P / 1e6:,.0f} million parameters "
               f"a merge, {syncer.merge_s:.1f} s each at the measured 70 million per second"),
        Advice("syncer's disk", f"{syncer.disk_bytes_s / 1e6:.1f} MB/s, "
               f"{_size(syncer.disk.total_bytes)}", "2 bytes per parameter and round for the log, "
               "a snapshot of 12 every ten minutes"),
        Advice("learner's host memory", _size(memory.total_bytes),
               "one fp32 base, and parts on their way; beside what the trainer takes"),
        Advice("joining", _time(joins.join_s),
               f"all parameters in fp32 over the slowest line down ({joins.site})"),
        Advice("time", f"{plan.hours / 24:.1f} days",
               f"{plan.tokens:.3g} tokens at {plan.tokens_s:,.0f} per second"),
        Advice("cost", f"{plan.cost.total:,.0f}",
               f"computing {plan.cost.compute:,.0f}, syncer {plan.cost.syncer:,.0f}, "
               f"egress {plan.cost.egress:,.0f} for {plan.cost.egress_gb:,.0f} GB"),
        Advice("data-parallel", f"{plan.times_data_parallel:.1f} times faster",
               f"the same sites and lines would take {_time(plan.data_parallel_step_s)} a step"),
    ]  # fmt: skip


def bottleneck(plan: Plan) -> tuple[str, str]:
    """What costs most, and what would help."""
    if plan.trouble:
        return plan.trouble, _help_with_trouble(plan)
    expected = plan.outlook
    losses = {
        "interruptions": 1 - expected.interruptions,
        "chips": 1 - expected.chips,
        "lines": 1 - expected.merged,
    }
    worst = max(losses, key=lambda each: losses[each])
    if losses[worst] < WORTH_SAYING:
        return _computing(plan)
    lost = f"{losses[worst]:.1%}"
    if worst == "interruptions":
        site = min(plan.ask.sites, key=lambda each: site_left(plan.ask, plan.choice, each))
        return (
            f"sites that are taken away cost {lost} of the time, {site.name} most",
            f"a shorter return than {_time(site.return_s)}, or machines that are not taken away",
        )
    if worst == "chips":
        site = min(plan.ask.sites, key=chips_left)
        half = replace(site, chips=max(1, site.chips // 2))
        helps = (
            f"two learners of {half.chips:,} chips at {site.name} instead of one would bring it "
            f"from {chips_left(site):.1%} to {chips_left(half):.1%}"
        )
        return f"chips that fail cost {lost} of the time, at {site.name} most", helps
    thinnest = max(plan.lines, key=lambda each: each.share)
    return (
        f"work that comes too late or not at all costs {lost}",
        f"a wider line at {thinnest.site}, or sites whose steps take about as long",
    )


def _computing(plan: Plan) -> tuple[str, str]:
    fullest = max(plan.lines, key=lambda each: each.share)
    room = LINE_SHARE / fullest.share if fullest.share else float("inf")
    said = "lines, syncer and failures cost less than 2 % of the time each: chips set the pace"
    if room == float("inf"):
        return said, "more or faster chips"
    full = f"the line of {fullest.site} is {fullest.share:.0%} full"
    if room < 1.1:
        return said, f"more or faster chips; but {full}, so faster steps take a wider one too"
    return said, (
        f"more or faster chips: {full}, so steps may become {room:.1f} times faster with these "
        "settings"
    )


def _help_with_trouble(plan: Plan) -> str:
    fullest = max(plan.lines, key=lambda each: each.share)
    if fullest.share > LINE_SHARE:
        site = next(each for each in plan.ask.sites if each.name == fullest.site)
        wanted = max(site.up_mbit_s * fullest.up_share, site.down_mbit_s * fullest.down_share)
        return (
            f"a line of {wanted / LINE_SHARE:,.0f} Mbit/s at {fullest.site}, or longer steps there "
            "(a larger batch): rounds are counted in steps"
        )
    return "a larger syncer (cores, disk, line), longer steps, or a smaller model"


def _why_tau(plan: Plan) -> str:
    slowest = max(plan.lines, key=lambda each: each.round_trip_s)
    return (
        f"a part is back after {_time(slowest.round_trip_s)} at {slowest.site}, merge included, "
        f"and steps take {pacing_step_s(plan.ask.sites):g} s"
    )


def _why_precision(plan: Plan) -> str:
    if not plan.passed:
        return "the finest fits everywhere"
    if plan.trouble:
        return f"the fewest bits there are; still, {plan.trouble}"
    return f"the finest that fits: with {plan.passed[-1]}"


def _why_goodput(plan: Plan) -> str:
    expected = plan.outlook
    return (
        f"tokens merged / tokens of sites that never fail: chips {expected.chips:.1%} simulated, "
        f"sites {expected.interruptions:.1%} by formula, merged {expected.merged:.1%} by the cores"
    )


def _round_s(plan: Plan) -> float:
    return plan.choice.H * pacing_step_s(plan.ask.sites)


def _rates(up_bytes_s: float, down_bytes_s: float) -> str:
    up, down = gigabits(up_bytes_s), gigabits(down_bytes_s)
    if max(up, down) >= 1:
        return f"{up:.2f} / {down:.2f} Gbit/s"
    return f"{1000 * up:.3g} / {1000 * down:.3g} Mbit/s"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GB:,.1f} GB" if num_bytes >= GB / 10 else f"{num_bytes / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- for machines


def to_plain(plan: Plan) -> dict[str, Any]:
    """Everything, as JSON takes it."""
    choice, syncer = plan.choice, plan.syncer
    held_back, helps = bottleneck(plan)
    settings = {
        "M": len(plan.ask.sites),
        "P": choice.P,
        "H": choice.H,
        "K": plan.K,
        "tau": "auto",
        "tau_steps": plan.tau_steps,
        "uplink": choice.up,
        "downlink": choice.down,
        "merge_threads": syncer.merge_threads,
    }
    advice = [asdict(each) for each in (*settings_advice(plan), *expectation_advice(plan))]
    return {
        "command": "plan",
        "run": plan.ask.run,
        "params": plan.ask.params,
        "settings": settings,
        "goodput": plan.outlook.goodput,
        "participation": plan.outlook.participation,
        "outlook": asdict(plan.outlook),
        "lines": [asdict(each) for each in plan.lines],
        "syncer": {
            "up_bytes_s": syncer.out_bytes_s,
            "down_bytes_s": syncer.in_bytes_s,
            "memory_bytes": syncer.memory_bytes,
            "disk_bytes": syncer.disk.total_bytes,
            "disk_bytes_s": syncer.disk_bytes_s,
            "merge_threads": syncer.merge_threads,
        },
        "learner_memory_bytes": plan.memory.total_bytes,
        "join_s": max(each.join_s for each in plan.lines),
        "tokens": plan.tokens,
        "tokens_s": plan.tokens_s,
        "days": plan.hours / 24,
        "cost": {**asdict(plan.cost), "total": plan.cost.total},
        "data_parallel": {
            "step_s": plan.data_parallel_step_s,
            "times_faster": plan.times_data_parallel,
        },
        "left_out": list(plan.left_out),
        "bottleneck": held_back,
        "what_helps": helps,
        "advice": advice,
    }
