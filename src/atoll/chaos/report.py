"""What a campaign ended with, in figures, beside the run without faults where there is one."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from atoll.chaos.campaign import Campaign
from atoll.chaos.fates import fates_of
from atoll.chaos.goodput import Pace, goodput, median_step_s, time_lost_s
from atoll.chaos.kinds import KINDS, SYNCER
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.tape.read import read_tapes


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds over several faults."""

    median_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class KindFigures:
    """All faults of one kind. A figure that no fault of the kind has is left out."""

    faults: int
    healed: int
    noticed: int
    """Slow and lossy links need not be."""
    notice: Spread | None
    heal: Spread | None
    heal_after_lift: Spread | None


@dataclass(frozen=True, slots=True)
class KillFigures:
    """Kills of learners: what each cost, and the goodput that these costs alone would leave."""

    kills: int
    restarts_seen: int
    restart_s: float
    """Mean time from a kill to the first step of the next life, where one was seen."""
    lost_s: float
    """Mean work that died, in time of steps."""
    per_second: float
    goodput_from_costs: float
    """1 - rate * (restart + lost) / learners."""


@dataclass(slots=True)
class ChaosReport:
    """As chaos.json and as the last line of `--json`."""

    run: str
    run_dir: str
    seed: int
    minutes: float
    learners: int
    faults_planned: int
    faults: int
    faults_late: int
    """Of these, done after the plan's end, which is also the end of goodput's window."""
    healed: int
    left_out: dict[str, int]
    """Faults whose target was not there until the run was stopped, by kind."""
    believed_lies: int
    goodput: float
    goodput_at_pace: float
    """With the paced time of a step, `[local] min_step_s`, so slower steps count as lost."""
    participation: float
    merges: int
    step_s: float
    kinds: dict[str, KindFigures]
    kills: KillFigures | None
    lost: dict[str, float]
    """Share of the time asked for that was lost around faults of a group; `else` is the rest."""
    tokens_trained: int
    tokens_merged: int
    tokens_not_merged: dict[str, int]
    refused: dict[str, int]
    restarts: int
    loss_first: float
    loss_last: float
    ledger_balanced: bool
    verified: bool
    checks_failed: list[str]
    window_s: tuple[float, float]
    baseline: ChaosReport | None = None
    struck: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Every fault was done and healed, no lie believed, ledger and tapes are right."""
        return not self.shortcomings

    @property
    def shortcomings(self) -> list[str]:
        """What keeps the run from being good, each in words."""
        found = []
        if self.faults != self.faults_planned:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.left_out.items())
            missing = self.faults_planned - self.faults
            found.append(f"{missing} of {self.faults_planned} faults were left out: {kinds}")
        for name, kind in self.kinds.items():
            if kind.healed != kind.faults:
                found.append(f"{kind.faults - kind.healed} of {kind.faults} {name} did not heal")
        if self.believed_lies:
            found.append(f"{self.believed_lies} lies were believed")
        if not self.ledger_balanced:
            found.append("the ledger does not balance")
        if not self.verified:
            found.append(f"the tapes do not verify: {', '.join(self.checks_failed)}")
        return found

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(self.plain(), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)


def report_of(campaign: Campaign, seed: int, baseline: ChaosReport | None = None) -> ChaosReport:
    """After the campaign's `run`: from its tapes, metrics and looks. Takes a while."""
    base = campaign.session.report()
    watch, census = campaign.watch, campaign.census
    sizes, pace = sizes_of(campaign), pace_of(campaign)
    window_s = window_of(campaign)
    at_pace = replace(pace, step_s=campaign.run_file.local.min_step_s)
    fates = fates_of(read_tapes(campaign.session.folder.tapes), sizes)
    struck = sorted(watch.struck, key=lambda each: each.done_s)
    report = ChaosReport(
        run=base.run,
        run_dir=base.run_dir,
        seed=seed,
        minutes=campaign.minutes,
        learners=pace.learners,
        faults_planned=len(campaign.faults),
        faults=len(struck),
        faults_late=len([1 for each in struck if each.done_s > window_s[1]]),
        healed=len([1 for each in struck if each.is_healed]),
        left_out=by_kind(campaign.storm.left_out),
        believed_lies=len([1 for each in struck if not each.refused]),
        goodput=round(goodput(watch.work, sizes, pace, window_s), 4),
        goodput_at_pace=round(goodput(watch.work, sizes, at_pace, window_s), 4),
        participation=round(census.participation, 4),
        merges=census.counts["merges"],
        step_s=round(pace.step_s, 4),
        kinds=kinds_of(struck),
        kills=kills_of(campaign, sizes, pace),
        lost=lost_of(campaign, sizes, pace),
        tokens_trained=fates.trained,
        tokens_merged=fates.merged,
        tokens_not_merged=fates.dropped,
        refused=census.all_refused(),
        restarts=campaign.session.local.progress.restarts,
        loss_first=base.loss_first,
        loss_last=base.loss_last,
        ledger_balanced=base.ledger_balanced,
        verified=base.verified,
        checks_failed=base.checks_failed,
        window_s=window_s,
        baseline=baseline,
        struck=[each.plain() for each in struck],
    )
    report.write(campaign.root / "chaos.json")
    return report


def window_of(campaign: Campaign) -> tuple[float, float]:
    """From when every learner trained to the end of the plan's time."""
    end_s = campaign.begun_s + 60 * campaign.minutes
    return round(campaign.begun_s, 2), round(min(end_s, campaign.ended_s), 2)


def sizes_of(campaign: Campaign) -> list[int]:
    """Elements of each fragment."""
    header = campaign.header
    assert header.run is not None, "the tape of a shard names its run"
    return list(header.run.fragment_sizes) or [1] * header.settings.P


def pace_of(campaign: Campaign) -> Pace:
    """What a step of this run is."""
    train, local = campaign.run_file.train, campaign.run_file.local
    metrics = sorted((campaign.root / "learners").glob("*/metrics.jsonl"))
    return Pace(local.learners, train.batch_size * train.model.context, median_step_s(metrics))


def by_kind(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each kind."""
    counts = Counter(each.kind for each in faults)
    return {name: counts[name] for name in KINDS if counts[name]}


def kinds_of(struck: list[Struck]) -> dict[str, KindFigures]:
    """Figures by kind, in the order of the kinds."""
    result = {}
    for name in KINDS:
        of_kind = [each for each in struck if each.fault.kind == name]
        if of_kind:
            result[name] = KindFigures(
                len(of_kind),
                len([1 for each in of_kind if each.is_healed]),
                len([1 for each in of_kind if each.noticed_s >= 0]),
                spread(each.notice_s for each in of_kind),
                spread(each.heal_s for each in of_kind),
                spread(each.heal_after_lift_s for each in of_kind),
            )
    return result


def kills_of(campaign: Campaign, sizes: list[int], pace: Pace) -> KillFigures | None:
    """What the kills of learners cost; None where there was none whose restart was seen.

    Of kills within the window alone.
    """
    watch, (begin_s, end_s) = campaign.watch, window_of(campaign)
    done = [each for each in watch.struck if each.done_s <= end_s]
    kills = [each for each in done if each.fault.kind == "kill"]
    restarts_s = [each.restart_s for each in kills if each.restart_s >= 0]
    if not restarts_s:
        return None
    lost_s = []
    for each in kills:
        life = (each.who, each.incarnation)
        tokens = watch.work.lost(life, sizes)
        lost_s.append(tokens / pace.step_tokens * pace.step_s)
    per_second = len(kills) / max(1e-9, end_s - begin_s)
    restart, lost = statistics.fmean(restarts_s), statistics.fmean(lost_s)
    left = 1 - per_second * (restart + lost) / pace.learners
    return KillFigures(
        len(kills),
        len(restarts_s),
        round(restart, 2),
        round(lost, 2),
        round(per_second, 5),
        round(left, 4),
    )


def lost_of(campaign: Campaign, sizes: list[int], pace: Pace) -> dict[str, float]:
    """Around each fault of a learner: from the work that it could still lose, until it healed."""
    begin_s, end_s = window_of(campaign)
    work, asked_s = campaign.watch.work, pace.learners * max(1e-9, end_s - begin_s)
    before_s = campaign.run_file.syncer.protocol.H * pace.step_s
    lost_s: dict[str, float] = {}
    for each in campaign.watch.struck:
        if each.who == SYNCER or not each.is_healed:
            continue
        window = (max(begin_s, each.done_s - before_s), min(end_s, each.healed_s))
        lost = time_lost_s(work, sizes, pace, each.who, window)
        lost_s[each.group] = lost_s.get(each.group, 0.0) + lost
    shares = {group: round(lost / asked_s, 4) for group, lost in sorted(lost_s.items())}
    known = math.fsum(shares.values())
    all_lost = 1 - goodput(work, sizes, pace, (begin_s, end_s))
    return {**shares, "else": round(max(0.0, all_lost - known), 4)}


def spread(seconds: Iterable[float]) -> Spread | None:
    """Median and longest of those that are known."""
    known = [each for each in seconds if 0 <= each < math.inf]
    if not known:
        return None
    return Spread(round(statistics.median(known), 2), round(max(known), 2))
