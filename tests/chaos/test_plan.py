"""Plans of faults: what they say, what is refused with the fix, and that a seed is a storm."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.chaos.kinds import KINDS, SYNCER
from atoll.chaos.plan import Fault, Plan, StormSettings, is_plan, parse_plan, read_plan
from atoll.chaos.storm import faults_of
from atoll.core.settings import SettingsError
from atoll.runfile.settings import read_run_file

STORMS = Path(__file__).resolve().parents[2] / "configs" / "storms"
PLANS = sorted(path for path in STORMS.glob("*.toml") if is_plan(path))
LEARNERS = [f"island-{number}" for number in range(8)]


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_plan_of_the_project_can_be_run(path: Path) -> None:
    plan = read_plan(path)
    run = read_run_file(path.parent / plan.run)
    names = [f"island-{number}" for number in range(run.local.learners)]
    faults = faults_of(plan, names)
    assert faults and {fault.who for fault in faults} <= {SYNCER, *names}
    assert run.local.min_step_s > 0, "steps are paced, or the figures mean nothing"


def test_there_is_a_plan_with_every_kind_of_fault() -> None:
    plan = read_plan(STORMS / "every-kind.toml")
    assert {fault.kind for fault in plan.fault} == set(KINDS)


def test_a_run_file_is_no_plan() -> None:
    assert not is_plan(STORMS / "micro-3.toml")


@pytest.mark.parametrize(
    ("plain", "fix"),
    [
        ({"run": "a", "fault": [{"at_s": 1, "kind": "kil", "who": "x"}]}, "did you mean 'kill'"),
        ({"run": "a", "storm": {"mix": {"half_opne": 1}}}, "did you mean 'half_open'"),
        ({"run": "a", "storm": {"fault_per_hour": 1}}, "did you mean 'faults_per_hour'"),
        ({"run": "a", "minuts": 1, "storm": {}}, "did you mean 'minutes'"),
        ({"run": "a"}, r"add a \[storm\]"),
        ({"storm": {}}, "name the run file"),
        ({"run": "a", "fault": [{"kind": "kill", "who": "x"}]}, "missing: at_s"),
        ({"run": "a", "fault": [{"at_s": 1, "kind": "kill"}]}, "needs who"),
        ({"run": "a", "fault": [{"at_s": 1, "kind": "kill_syncer", "who": "x"}]}, "take out who"),
        ({"run": "a", "fault": [{"at_s": 1, "kind": "cut", "who": "x"}]}, "needs for_s"),
        (
            {"run": "a", "fault": [{"at_s": 1, "kind": "kill", "who": "x", "for_s": 2}]},
            "take out for_s",
        ),
        (
            {"run": "a", "minutes": 1, "fault": [{"at_s": 61, "kind": "kill", "who": "x"}]},
            "make the plan longer",
        ),
        ({"run": "a", "storm": {"faults_per_hour": 0}}, "above 0"),
        ({"run": "a", "storm": {"spares": "island-0"}}, "spares: Expected `array`"),
        ({"run": "a", "minutes": "long", "storm": {}}, "minutes"),
    ],
)
def test_a_mistake_in_a_plan_names_its_fix(plain: dict[str, object], fix: str) -> None:
    with pytest.raises(SettingsError, match=fix):
        parse_plan(plain)


def storm(seed: int, **settings: object) -> list[Fault]:
    plan = Plan("x", minutes=30, seed=seed, storm=StormSettings(**settings))  # type: ignore[arg-type]
    return faults_of(plan, LEARNERS)


def test_the_same_seed_is_the_same_storm_and_another_one_is_not() -> None:
    assert storm(3) == storm(3)
    assert storm(3) != storm(4)


def test_a_storm_has_as_many_faults_as_its_rate_gives_and_all_are_over_in_time() -> None:
    faults = storm(0, faults_per_hour=125)
    assert len(faults) == round(125 / 2)
    assert all(fault.at_s >= 0 and fault.at_s + fault.for_s <= 1800.1 for fault in faults)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)


def test_a_storm_of_some_kinds_has_no_other() -> None:
    faults = storm(0, mix={"kill": 3.0, "cut": 1.0, "nan": 0.0})
    kinds = [fault.kind for fault in faults]
    assert set(kinds) == {"kill", "cut"}
    assert kinds.count("kill") > kinds.count("cut")


def test_who_was_hit_has_rest_while_others_had_it() -> None:
    faults = storm(0, faults_per_hour=125, mix={"cut": 1.0}, rest_s=20.0)
    over_s = dict.fromkeys(LEARNERS, 0.0)
    for fault in faults:
        assert fault.at_s >= over_s[fault.who]
        over_s[fault.who] = fault.at_s + fault.for_s + 19.9


def test_who_is_spared_is_never_killed_and_has_other_faults() -> None:
    spares = ("island-0", "island-3")
    faults = storm(4, faults_per_hour=600, mix={"kill": 2.0, "reset": 1.0}, spares=spares)
    killed = {fault.who for fault in faults if fault.kind == "kill"}
    assert killed == set(LEARNERS) - set(spares)
    assert {fault.who for fault in faults if fault.kind == "reset"} >= set(spares)


def test_who_is_spared_has_to_be_there_and_somebody_has_to_be_left() -> None:
    with pytest.raises(SettingsError, match="name one from island-0 to island-7"):
        storm(0, spares=("island-8",))
    with pytest.raises(SettingsError, match="kill = 0"):
        storm(0, spares=tuple(LEARNERS))
    assert storm(0, spares=tuple(LEARNERS), mix={"cut": 1.0})


def test_faults_last_as_much_shorter_as_the_storm_says() -> None:
    for fault in storm(5, for_scale=0.5, faults_per_hour=500):
        longest = KINDS[fault.kind].for_s[1] * 0.5
        assert fault.for_s <= longest + 0.1
