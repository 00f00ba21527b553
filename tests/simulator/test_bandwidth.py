"""Bandwidth: the formulas, the bytes counted on the simulated wire, and the published pairs."""

from __future__ import annotations

import pytest

from atoll.core.settings import SettingsError
from atoll.merge.codecs import encoded_bytes
from atoll.simulator.bandwidth import (
    SYSTEMS,
    UTILISATIONS,
    Job,
    System,
    average_bytes_s,
    gigabits,
    need_of,
    needed_bytes_s,
    peak_bytes_s,
    utilisation,
)
from atoll.simulator.bandwidth_published import PAIRS, Pair, compare
from atoll.simulator.bandwidth_wire import count, thin_line

FIVE = Job(5_000_000_000, 1.0, 2)
WAITING: tuple[System, ...] = ("data-parallel", "diloco", "streaming")


def test_the_averages_are_bytes_over_time() -> None:
    assert gigabits(average_bytes_s(FIVE, "data-parallel")) == pytest.approx(80.0)
    assert gigabits(average_bytes_s(FIVE, "decoupled-apart")) == pytest.approx(80 / 24)
    assert gigabits(average_bytes_s(FIVE, "decoupled")) == pytest.approx(40 / 24)
    eight = Job(5_000_000_000, 1.0, 8, "int4")
    sizes = sum(encoded_bytes("int4", each) for each in eight.fragment_numels)
    assert eight.round_bytes == sizes == pytest.approx(5e9 * 4.25 / 8, rel=1e-6)
    assert gigabits(average_bytes_s(eight, "data-parallel")) == pytest.approx(140.0)


def test_a_peak_equals_the_average_where_there_is_a_fragment_for_every_step() -> None:
    for system in ("streaming", "decoupled", "decoupled-apart"):
        ratio = peak_bytes_s(FIVE, system) / average_bytes_s(FIVE, system)
        assert ratio == pytest.approx(1.0, rel=1e-6)
    few = Job(5_000_000_000, 1.0, 2, P=6)
    assert peak_bytes_s(few, "decoupled") == pytest.approx(4 * average_bytes_s(few, "decoupled"))
    assert peak_bytes_s(few, "streaming") == pytest.approx(2 * average_bytes_s(few, "streaming"))
    assert gigabits(peak_bytes_s(FIVE, "diloco")) == pytest.approx(80.0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_rate_for_a_utilisation_gives_that_utilisation_and_no_less_does(system: System) -> None:
    need = need_of(FIVE, system)
    rates = list(need.needed_bytes_s.values())
    assert rates == sorted(rates)
    for wanted, rate in need.needed_bytes_s.items():
        assert utilisation(FIVE, system, rate) >= wanted
        assert utilisation(FIVE, system, 0.99 * rate) < wanted


@pytest.mark.parametrize("system", WAITING)
@pytest.mark.parametrize("wanted", [UTILISATIONS[0], UTILISATIONS[-1]])
@pytest.mark.parametrize("shape", [(24, 24, 2), (6, 24, 2), (12, 24, 1)])
def test_a_ring_on_the_simulated_wire_agrees_with_the_formula(
    system: System, wanted: float, shape: tuple[int, int, int]
) -> None:
    P, H, tau = shape
    job = Job(1_000_000_000, 2.0, 3, "int8", P, H, tau)
    found = count(job, system, needed_bytes_s(job, system, wanted))
    assert found.utilisation == pytest.approx(wanted, rel=0.01)
    assert found.up_bytes_s == pytest.approx(wanted * average_bytes_s(job, system), rel=0.02)


@pytest.mark.parametrize("system", ["decoupled", "decoupled-apart"])
@pytest.mark.parametrize(("num_sites", "precision"), [(2, "bf16"), (4, "int4")])
def test_the_cores_on_the_simulated_wire_agree_with_the_formula(
    system: System, num_sites: int, precision: str
) -> None:
    job = Job(5_000_000_000, 1.0, num_sites, precision)  # type: ignore[arg-type]
    average = average_bytes_s(job, system)
    found = count(job, system, 1.1 * average)
    assert found.utilisation == pytest.approx(1.0, abs=0.01), "nobody waits"
    for rate in (found.up_bytes_s, found.down_bytes_s):
        assert rate == pytest.approx(average, rel=0.1)
    for rate in (found.peak_up_bytes_s, found.peak_down_bytes_s):
        assert rate <= 1.1 * peak_bytes_s(job, system) * 1.001


@pytest.mark.parametrize("pair", PAIRS, ids=("two", "eight"))
def test_one_set_of_conventions_gives_all_published_figures_within_ten_percent(pair: Pair) -> None:
    chosen = [each for each in compare(pair) if each.chosen]
    assert [each.what for each in chosen] == ["data-parallel", "decoupled"]
    assert all(abs(each.difference) < 0.1 for each in chosen), chosen


def test_a_thin_line_costs_rounds_and_never_time() -> None:
    job = Job(5_000_000_000, 1.0, 2)
    average = average_bytes_s(job, "decoupled-apart")
    thin, wide = thin_line(job, 0.5 * average), thin_line(job, 2 * average)
    assert thin.stall < 0.01 and wide.stall < 0.01
    assert thin.rounds < 0.6 and thin.participation < 0.9
    assert thin.merged > 0.9, "what misses a round is carried into a later one"
    assert wide.rounds > 0.98 and wide.merged > 0.98 and wide.participation > 0.9


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"num_sites": 1}, "set datacenters to 2 or more"),
        ({"step_s": 0.0}, "number of seconds above 0"),
        ({"precision": "int2"}, "use one of fp32"),
        ({"P": 30}, "set P to 24 or less"),
        ({"tau": 24}, "below H = 24"),
        ({"num_params": 0}, "set it to 1 or more"),
    ],
)
def test_a_mistake_names_the_fix(change: dict[str, object], fix: str) -> None:
    values: dict[str, object] = {"num_params": 10**9, "step_s": 1.0, "num_sites": 2}
    with pytest.raises(SettingsError, match=fix):
        Job(**{**values, **change})  # type: ignore[arg-type]
