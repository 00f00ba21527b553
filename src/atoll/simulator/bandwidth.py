"""What each way of training asks of the line between data centres, as formulas.

Conventions, the same everywhere:

* A *link* is the line of one data centre; each direction has the whole rate.
  Bodies only: no headers, no acknowledgements, no latency.
* *Compute utilisation* is compute time / (compute + stall).
* *data-parallel*: a ring all-reduce of the gradient after every step, 2 (D - 1) / D times its bytes
  out and as many in; it may run beside the backward pass, two thirds of a step. Gradients travel
  in bf16, or in fp32 where that is the precision; averaged each step, they cannot be coarser.
* *diloco*: all parameters through the same ring every H steps, while everybody waits.
* *streaming*: fragment by fragment through the same ring; a fragment has tau steps to come back.
* *decoupled*: learners send displacements to a syncer and receive versions: bytes at wire precision
  / (H * step) per learner and direction. Nobody waits for the line, so utilisation is 1 on any of
  them; what a thin line costs is rounds. Its needed bandwidth is what lets that share of the rounds
  come at their time. `spread`: the syncer's shards stand in all data centres alike, so 1 / D of a
  learner's bytes never leave the house. `apart`: the syncer is elsewhere, all bytes leave.

Sizes are those of the real codecs, scales of int8 and int4 included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from atoll.core.settings import SettingsError
from atoll.merge.chain import KEPT_INCREMENTS
from atoll.merge.codecs import CODECS, Codec, encoded_bytes
from atoll.simulator.wire import BodySizes

System = Literal["data-parallel", "diloco", "streaming", "decoupled", "decoupled-apart"]
SYSTEMS: tuple[System, ...] = get_args(System)
UTILISATIONS = (0.5, 0.8, 0.9, 0.95, 0.99)
BACKWARD_SHARE = 2 / 3
"""The backward pass costs twice the forward one."""
GIGABIT_BYTES = 1e9 / 8


@dataclass(frozen=True, slots=True)
class Job:
    """One model trained over several data centres, all of one pace."""

    num_params: int
    step_s: float
    num_sites: int
    precision: Codec = "bf16"
    P: int = 24
    H: int = 24
    tau: int = 2

    def __post_init__(self) -> None:
        for name in ("num_params", "P", "H", "tau"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: set it to 1 or more")
        if self.num_sites < 2:
            raise SettingsError(
                f"{self.num_sites} data centre has no line to another: set datacenters to 2 or more"
            )
        if not 0 < self.step_s < float("inf"):
            raise SettingsError(f"step_s = {self.step_s}: set it to a number of seconds above 0")
        if self.precision not in CODECS:
            raise SettingsError(f"precision = {self.precision!r}: use one of {', '.join(CODECS)}")
        if min(self.H, self.num_params) < self.P:
            raise SettingsError(
                f"P = {self.P} fragments need H = {self.P} steps or more and as many parameters: "
                f"set P to {min(self.H, self.num_params)} or less"
            )
        if self.tau >= self.H > 1:
            raise SettingsError(f"tau = {self.tau} leaves no rest: set it below H = {self.H}")

    @property
    def fragment_numels(self) -> tuple[int, ...]:
        """Balanced: no two differ by more than one value."""
        bounds = [each * self.num_params // self.P for each in range(self.P + 1)]
        return tuple(stop - start for start, stop in pairwise(bounds))

    @property
    def ring_share(self) -> float:
        """Bytes out of a link for each byte that a ring all-reduce averages."""
        return 2 * (self.num_sites - 1) / self.num_sites

    @property
    def gradient_bytes(self) -> int:
        """Of one data-parallel gradient."""
        return encoded_bytes("fp32" if self.precision == "fp32" else "bf16", self.num_params)

    @property
    def round_bytes(self) -> int:
        """All fragments once, as contributions or as increments."""
        return sum(encoded_bytes(self.precision, numel) for numel in self.fragment_numels)


@dataclass(frozen=True, slots=True)
class Need:
    """What a system asks of one link in one direction, in bytes per second."""

    system: System
    average_bytes_s: float
    peak_bytes_s: float
    needed_bytes_s: dict[float, float]


def need_of(job: Job, system: System) -> Need:
    """Average and peak at full speed, and the rate that each utilisation takes."""
    needed = {each: needed_bytes_s(job, system, each) for each in UTILISATIONS}
    return Need(system, average_bytes_s(job, system), peak_bytes_s(job, system), needed)


def average_bytes_s(job: Job, system: System) -> float:
    """Over a long time, when nobody stalls."""
    if system == "data-parallel":
        return job.ring_share * job.gradient_bytes / job.step_s
    per_round_bytes = _out_share(job, system) * job.round_bytes
    return per_round_bytes / (job.H * job.step_s)


def peak_bytes_s(job: Job, system: System) -> float:
    """In the fullest step, when nobody stalls: a window of one step, transfers spread evenly.

    DiLoCo's exchange falls into one step; a streamed fragment takes the steps until the next one
    is due, or tau where those are fewer.
    """
    if system == "data-parallel":
        return average_bytes_s(job, system)
    if system == "diloco":
        return _out_share(job, system) * job.round_bytes / job.step_s
    fragment_bytes = encoded_bytes(job.precision, max(job.fragment_numels))
    gap_steps = job.H / job.P
    window_steps = min(gap_steps, job.tau) if system == "streaming" else min(gap_steps, 1.0)
    return _out_share(job, system) * fragment_bytes / (window_steps * job.step_s)


def utilisation(job: Job, system: System, bytes_s: float) -> float:
    """Compute time / (compute + stall) on a link of this rate; for decoupled, rounds in time."""
    step_s = job.step_s
    if system == "data-parallel":
        transfer_s = job.ring_share * job.gradient_bytes / bytes_s
        return step_s / (step_s + max(0.0, transfer_s - BACKWARD_SHARE * step_s))
    if system == "diloco":
        return job.H * step_s / (job.H * step_s + job.ring_share * job.round_bytes / bytes_s)
    if system == "streaming":
        gap_s = job.H / job.P * step_s
        transfer_s = job.ring_share * job.round_bytes / job.P / bytes_s
        alone_s = max(0.0, gap_s - job.tau * step_s)
        return gap_s / max(gap_s, transfer_s + alone_s)
    return min(1.0, bytes_s / average_bytes_s(job, system))


def needed_bytes_s(job: Job, system: System, wanted: float) -> float:
    """The lowest rate that reaches a utilisation, found by bisection on `utilisation`."""
    low, high = 1.0, 1.0
    while utilisation(job, system, high) < wanted:
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if utilisation(job, system, middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def body_sizes(numels: tuple[int, ...], up: Codec, down: Codec) -> BodySizes:
    """What fragments of these sizes weigh on the wire."""
    return BodySizes(
        up=tuple(encoded_bytes(up, each) for each in numels),
        down=tuple(encoded_bytes(down, each) for each in numels),
        full=tuple(encoded_bytes("fp32", each) for each in numels),
        kept_increments=KEPT_INCREMENTS,
    )


def gigabits(bytes_s: float) -> float:
    """Bytes per second as Gbit/s."""
    return bytes_s / GIGABIT_BYTES


def _out_share(job: Job, system: System) -> float:
    """Bytes out of a link for each byte of a round."""
    if system in ("diloco", "streaming"):
        return job.ring_share
    return (job.num_sites - 1) / job.num_sites if system == "decoupled" else 1.0
