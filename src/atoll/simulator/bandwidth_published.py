"""The published bandwidth pairs, and the one set of conventions that comes within 10 % of all four.

Published are four figures for a model of 5 billion parameters with steps of one second, without
their conventions: 104 Gbit/s data-parallel against 1.7 decoupled (bf16), and 198 against 0.84 over
eight data centres (few bits). `bandwidth` gives all of them when the first pair is read as two data
centres, data-parallel as the rate for 95 % utilisation, and decoupled as the average per learner
and direction with the syncer's shards spread over the data centres. Other readings fit a single
figure better and another one worse.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.merge.codecs import Codec
from atoll.simulator.bandwidth import Job, average_bytes_s, gigabits, needed_bytes_s

UTILISATION = 0.95


@dataclass(frozen=True, slots=True)
class Pair:
    """Two published figures in Gbit/s, and the job they are read as."""

    job: Job
    data_parallel: float
    decoupled: float


def _pair(num_sites: int, precision: Codec, data_parallel: float, decoupled: float) -> Pair:
    return Pair(Job(5_000_000_000, 1.0, num_sites, precision), data_parallel, decoupled)


PAIRS = (_pair(2, "bf16", 104, 1.7), _pair(8, "int4", 198, 0.84))


@dataclass(frozen=True, slots=True)
class Compared:
    """A published figure beside ours. `chosen`: by the conventions that fit all four."""

    what: str
    convention: str
    published: float
    ours: float
    chosen: bool

    @property
    def difference(self) -> float:
        """Ours over the published one, less one."""
        return self.ours / self.published - 1


def compare(pair: Pair) -> tuple[Compared, ...]:
    """Both figures of a pair by the conventions that fit, then by other plain ones."""
    job = pair.job

    def by_rate(share: float, chosen: bool = False) -> Compared:
        rate = gigabits(needed_bytes_s(job, "data-parallel", share))
        text = f"rate for {share:.0%}"
        return Compared("data-parallel", text, pair.data_parallel, rate, chosen)

    spread = gigabits(average_bytes_s(job, "decoupled"))
    apart = gigabits(average_bytes_s(job, "decoupled-apart"))
    return (
        by_rate(UTILISATION, chosen=True),
        Compared("decoupled", "average, spread", pair.decoupled, spread, True),
        by_rate(0.5),
        by_rate(0.8),
        by_rate(0.9),
        by_rate(0.99),
        Compared("decoupled", "average, apart", pair.decoupled, apart, False),
    )
