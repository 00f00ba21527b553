"""Verify: the tapes of all parties joined, and what must always hold checked over them.

Joins by ids (cuts, versions, calls), never by clocks. A torn tail and the missing tape of a killed
learner are accepted and named; damage is not. Must never change a tape, nor run a core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from atoll.core.settings import ProtocolSettings
from atoll.tape import checks_order, checks_work
from atoll.tape.checks import CHECKS, Found, History
from atoll.tape.facts import LearnerFacts, SyncerFacts
from atoll.tape.learner_facts import read_learner
from atoll.tape.read import PartyTape, TapeError, read_tapes
from atoll.tape.syncer_facts import read_coordinator, read_shard

WHOLE = "tapes_are_whole"
CHECK_MODULES = (checks_order, checks_work)
"""Importing them enters their checks."""
MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: what must hold, whether it does, and where it does not."""

    name: str
    ok: bool
    rule: str
    detail: str


@dataclass(slots=True)
class VerifyReport:
    """All checks, and what had to be done without."""

    ok: bool = True
    parties: list[str] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [each.name for each in self.checks if not each.ok]


def verify(root: Path) -> VerifyReport:
    """Check the tapes below a directory. Raises TapeError when there is none to check."""
    tapes = read_tapes(root)
    report = VerifyReport(parties=[tape.party for tape in tapes])
    damage: list[str] = []
    for tape in tapes:
        report.torn += tape.torn
        damage += tape.damage
    try:
        history = gather([tape for tape in tapes if tape.segments])
    except TapeError as error:
        damage.append(str(error))
        history = History(ProtocolSettings(), SyncerFacts(), LearnerFacts())
    report.missing = _missing(tapes, history)
    rule = "Every frame has its checksum and nothing is missing between segments."
    _enter(report, WHOLE, rule, Found(len(tapes), damage))
    for name, check in CHECKS.items():
        found = Found()
        check(history, found)
        _enter(report, name, _sentence(check.__doc__), found)
    return report


def gather(tapes: list[PartyTape]) -> History:
    """The facts of all parties."""
    syncer, learners = SyncerFacts(), LearnerFacts()
    for tape in tapes:
        role = tape.segments[0].header.role
        if role == "shard":
            read_shard(tape, syncer)
        elif role == "coordinator":
            read_coordinator(tape, syncer)
        else:
            read_learner(tape, learners)
    if not tapes:
        raise TapeError("no tape has a segment that can be read")
    return History(tapes[0].segments[0].header.settings, syncer, learners)


def _missing(tapes: list[PartyTape], history: History) -> list[str]:
    there = {tape.party for tape in tapes}
    shards = {s.header.num_shards for t in tapes for s in t.segments if s.header.role == "shard"}
    wanted = {"coordinator"} | {f"shard-{i}" for i in range(max(shards, default=1))}
    texts = [f"there is no tape of {party}" for party in sorted(wanted - there)]
    learners = sorted(history.syncer.admitted - there)
    return texts + [f"there is no tape of learner {name}: it is believed" for name in learners]


def _enter(report: VerifyReport, name: str, rule: str, found: Found) -> None:
    ok = not found.wrong
    detail = f"{found.looked} looked at"
    if not ok:
        more = f" (and {len(found.wrong) - 1} more)" if len(found.wrong) > 1 else ""
        detail = f"{found.wrong[0]}{more}"
    elif found.unknown:
        detail += f", {len(found.unknown)} cannot be said"
        report.notes += [f"{name}: {text}" for text in found.unknown[:MOST_NOTES]]
    report.ok = report.ok and ok
    report.checks.append(CheckResult(name, ok, rule, detail))


def _sentence(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n")[0]
