"""Data-parallel over the same lines: what a plan is compared with.

Gradients in bf16 around a ring of all sites, beside the backward pass (two thirds of a step). The
slowest step and the thinnest line set the pace; failures are not held against it.
"""

from __future__ import annotations

from atoll.merge.codecs import encoded_bytes
from atoll.simulator.bandwidth import BACKWARD_SHARE
from atoll.simulator.planning.ask import Ask
from atoll.simulator.planning.needs import MEGABIT_BYTES


def data_parallel_step_s(ask: Ask) -> float:
    """One step of all sites together."""
    step_s = max(each.step_s for each in ask.sites)
    num = len(ask.sites)
    if num == 1:
        return step_s
    rates = [rate for each in ask.sites for rate in (each.up_mbit_s, each.down_mbit_s) if rate]
    ring_bytes = 2 * (num - 1) / num * encoded_bytes("bf16", ask.params)
    transfer_s = ring_bytes / (min(rates) * MEGABIT_BYTES) if rates else 0.0
    latency_s = 2 * (num - 1) * max(each.latency_ms for each in ask.sites) / 1000
    return step_s + max(0.0, transfer_s + latency_s - BACKWARD_SHARE * step_s)


def data_parallel_tokens_s(ask: Ask) -> float:
    """Tokens per second of all sites together."""
    return sum(each.step_tokens for each in ask.sites) / data_parallel_step_s(ask)
