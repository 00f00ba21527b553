"""What a report calls good: every fault was done and healed, and what was not is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.chaos.report import ChaosReport, by_kind, kinds_of
from atoll.cli.chaos_display import show_chaos

KILL, SLOW = Fault(0, "kill", "l1"), Fault(1, "slow", "l2", 5.0)


def report(struck: list[Struck], left_out: list[Fault]) -> ChaosReport:
    """As it would be written after these."""
    return ChaosReport(
        run="r",
        run_dir="runs/r",
        seed=0,
        minutes=1.0,
        learners=2,
        faults_planned=len(struck) + len(left_out),
        faults=len(struck),
        faults_late=0,
        healed=len([1 for each in struck if each.is_healed]),
        left_out=by_kind(left_out),
        believed_lies=0,
        goodput=0.98,
        goodput_at_pace=0.71,
        participation=1.0,
        merges=3,
        step_s=1.4,
        kinds=kinds_of(struck),
        kills=None,
        lost={},
        tokens_trained=100,
        tokens_merged=100,
        tokens_not_merged={},
        refused={},
        restarts=1,
        loss_first=5.0,
        loss_last=4.0,
        ledger_balanced=True,
        verified=True,
        checks_failed=[],
        window_s=(0.0, 60.0),
    )


def killed(healed_s: float = 9.0, noticed_s: float = 1.0) -> Struck:
    return Struck(1, KILL, 0.5, 1, lifted_s=0.5, noticed_s=noticed_s, healed_s=healed_s)


def slowed() -> Struck:
    return Struck(2, SLOW, 1.0, 1, lifted_s=6.0, healed_s=7.0)


def test_a_run_with_every_fault_done_and_healed_is_good() -> None:
    good = report([killed(), slowed()], [])
    assert good.is_good and good.shortcomings == []


def test_a_fault_left_out_is_named_and_the_run_is_not_good() -> None:
    bad = report([killed()], [SLOW, KILL, KILL])
    assert not bad.is_good
    assert bad.shortcomings == ["3 of 4 faults were left out: 2 kill, 1 slow"]


def test_a_fault_that_did_not_heal_is_named_and_the_run_is_not_good() -> None:
    bad = report([killed(healed_s=-1.0), killed(), slowed()], [])
    assert bad.shortcomings == ["1 of 2 kill did not heal"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"believed_lies": 1}, "1 lies were believed"),
        ({"ledger_balanced": False}, "the ledger does not balance"),
        ({"verified": False, "checks_failed": ["weights"]}, "the tapes do not verify: weights"),
    ],
)
def test_all_else_that_is_not_right_is_named(change: dict[str, object], reason: str) -> None:
    assert replace(report([killed()], []), **change).shortcomings == [reason]


def test_faults_that_nobody_noticed_are_counted_as_such() -> None:
    kinds = kinds_of([killed(), killed(noticed_s=-1.0), slowed()])
    assert (kinds["kill"].faults, kinds["kill"].noticed, kinds["kill"].healed) == (2, 1, 2)
    assert (kinds["slow"].noticed, kinds["slow"].notice) == (0, None)


def test_the_table_shows_what_was_left_out_and_the_goodput_at_the_set_pace() -> None:
    console = Console(record=True, width=120)
    show_chaos(console, report([killed(), killed(noticed_s=-1.0)], [SLOW]))
    text = console.export_text()
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:-1]
        for line in text.splitlines()
        if "│" in line
    }
    assert [cell.strip() for cell in rows["kill"][:3]] == ["2", "2", "1"]
    assert rows["goodput at the set pace"][0].strip() == "71.00%"
    assert rows["faults left out"][0].strip() == "slow 1"
