"""How a run went, in figures that come from what its processes wrote: metrics, tapes, status.

*Goodput* is learner time in steps whose work was merged, over learners asked for times wall time:
down time and dropped work count against it. *Participation* is learners merged over learners live,
per round. `bytes_data_parallel` is what averaging a bf16 gradient after every step would have sent:
2 (M - 1) / M times its bytes, per learner and step, in each direction. `repeated_items` are items
of a leased data set that were trained more than once in a pass: those that a lost learner had
trained and not merged, and those that a learner trained while no lease was at hand.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atoll.core.effects import Merge
from atoll.core.events import Disconnected, Merged
from atoll.tape.read import Entry, PartyTape, read_tapes
from atoll.tape.verify import verify

BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what was done to whom when, and how long until its work was merged again.

    `heal_s` runs from when the syncer noticed to the first merge with work of the new process; -1
    for never.
    """

    learner: str
    kind: str
    at_s: float
    heal_s: float


@dataclass(slots=True)
class Report:
    """A run in figures; written as report.json and as the last line of `--json`."""

    run: str
    run_dir: str
    seconds: float
    goodput: float
    participation: float
    faults: int
    healed: int
    loss_first: float
    loss_last: float
    tokens_trained: int
    tokens_merged: int
    merges: int
    thin_merges: int
    ledger_balanced: bool
    verified: bool
    bytes_up: int
    bytes_down: int
    bytes_data_parallel: int
    parameters: int
    data: str
    data_passes: int = 0
    repeated_items: int = 0
    receipt: str = ""
    """Under "overwrite" what is trained while a merge is under way is dropped, by design."""
    checks_failed: list[str] = field(default_factory=list)
    fault_list: list[Fault] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        beside.replace(path)

    @staticmethod
    def read(path: Path) -> Report:
        """A report that was written."""
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["fault_list"] = [Fault(**fault) for fault in plain["fault_list"]]
        return Report(**plain)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a launcher knows and the files do not."""

    run: str
    run_dir: Path
    seconds: float
    learners: int
    loss_first: float
    loss_last: float
    parameters: int
    data: str
    status: dict[str, Any]
    receipt: str = ""


def build_report(figures: Figures, faults: list[Fault]) -> Report:
    """Everything together."""
    status = figures.status
    coordinator, counts = status.get("coordinator", {}), status.get("counts", {})
    tallies = [shard["tally"] for shard in status.get("shards", {}).values()]
    trained, merged = int(coordinator.get("trained", 0)), int(coordinator.get("merged", 0))
    steps, step_s, repeated = _steps(figures.run_dir)
    available_s = figures.learners * figures.seconds
    live = total(tally["learners_live"] for tally in tallies)
    verdict = verify(figures.run_dir / "tapes")
    gradient = BF16_BYTES * figures.parameters
    return Report(
        run=figures.run,
        run_dir=str(figures.run_dir),
        seconds=round(figures.seconds, 1),
        goodput=round(step_s * merged / max(1, trained) / available_s, 4) if available_s else 0.0,
        participation=round(total(t["learners_merged"] for t in tallies) / max(1, live), 4),
        faults=len(faults),
        healed=len([1 for fault in faults if fault.heal_s >= 0]),
        loss_first=round(figures.loss_first, 4),
        loss_last=round(figures.loss_last, 4),
        tokens_trained=trained,
        tokens_merged=merged,
        merges=total(tally["merges"] for tally in tallies),
        thin_merges=total(tally["thin"] for tally in tallies),
        ledger_balanced="ledger_has_no_gap_or_overlap" not in verdict.failed,
        verified=verdict.ok,
        bytes_up=int(counts.get("bytes_in", 0)),
        bytes_down=int(counts.get("bytes_out", 0)),
        bytes_data_parallel=2 * gradient * (figures.learners - 1) * steps // figures.learners,
        parameters=figures.parameters,
        data=figures.data,
        data_passes=int(coordinator.get("data_pass", 0)),
        repeated_items=int(coordinator.get("repeated_items", 0)) + repeated,
        receipt=figures.receipt,
        checks_failed=verdict.failed,
        fault_list=faults,
    )


def time_to_heal_s(tapes: Path, learner: str, incarnation: int) -> float:
    """From when a shard lost a life until a later one was merged; -1 where it never was."""
    for tape in read_tapes(tapes):
        lost_s, asked = -1.0, dict[tuple[int, int], bool]()
        for entry in _entries(tape) if tape.party.startswith("shard-") else ():
            event = entry.event
            if isinstance(event, Disconnected) and event.incarnation == incarnation:
                lost_s = entry.now_s
            for effect in entry.effects:
                if isinstance(effect, Merge):
                    lives = [part.cut.id for part in effect.parts]
                    asked[effect.fragment, effect.version] = any(
                        life.learner == learner and life.incarnation > incarnation for life in lives
                    )
            if isinstance(event, Merged) and asked.get((event.fragment, event.version)):
                return round(entry.now_s - lost_s, 2) if lost_s >= 0 else -1.0
    return -1.0


def total(values: Any) -> int:
    """The sum of whole numbers."""
    result = 0
    for value in values:
        result += int(value)
    return result


def _entries(tape: PartyTape) -> list[Entry]:
    return [
        item for segment in tape.segments for item in segment.items() if isinstance(item, Entry)
    ]


def _steps(run_dir: Path) -> tuple[int, float, int]:
    """Steps of all learners, the time they took, and the items they repeated without a lease."""
    steps, seconds, repeated = 0, 0.0, 0
    for path in sorted((run_dir / "learners").glob("*/metrics.jsonl")):
        of_life = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a learner that was killed while it wrote
            if "step_s" in record:
                steps += 1
                seconds += float(record["step_s"])
            # A new life begins with another line, and counts from 0.
            now = int(record.get("repeated_items", 0))
            repeated += now - of_life if now > of_life else 0
            of_life = now
    return steps, seconds, repeated
