"""The planner: what it chooses, what it expects, and figures that are those of the real code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atoll.core.settings import SettingsError
from atoll.fragments.layout import Layout
from atoll.merge.codecs import encoded_bytes
from atoll.merge.merge import FragmentMerger, MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.simulator.planning.ask import Ask, Site, SyncerPlace, ask_from, read_ask
from atoll.simulator.planning.baseline import data_parallel_step_s
from atoll.simulator.planning.choice import choose
from atoll.simulator.planning.needs import Choice, cost, learner_memory, line_need, syncer_need
from atoll.simulator.planning.outlook import chips_left, outlook, site_left
from atoll.simulator.planning.plan import (
    Plan,
    bottleneck,
    expectation_advice,
    make_plan,
    settings_advice,
    to_plain,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "plan" / "four-regions.toml"


def regions(rate_mbit_s: float, num: int = 4, **changes: object) -> Ask:
    """The published case: 12 billion parameters over regions on 2 to 5 Gbit/s."""
    site = Site("region", 3.0, 4_000_000, rate_mbit_s, rate_mbit_s)
    sites = tuple(replace(site, name=f"region-{each}") for each in range(num))
    return replace(Ask(12_000_000_000, sites), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def published() -> Plan:
    return make_plan(regions(2000.0))


def test_four_regions_on_two_gigabits_are_over_twenty_times_faster(published: Plan) -> None:
    assert published.times_data_parallel > 20
    assert make_plan(regions(5000.0)).times_data_parallel > 19
    assert (published.choice.P, published.choice.H) == (24, 24)
    assert published.choice.up == "int8" and not published.trouble
    assert published.outlook.goodput > 0.95 and published.outlook.participation > 0.9


def test_the_times_are_those_of_one_ring_over_the_same_lines() -> None:
    ask = regions(2000.0)
    ring_s = 2 * 3 / 4 * 2 * 12e9 * 8 / 2e9 + 6 * 0.04
    assert data_parallel_step_s(ask) == pytest.approx(3 + ring_s - 2)


def test_thinner_lines_take_fewer_bits_and_then_longer_rounds() -> None:
    found = [choose(regions(rate)).choice for rate in (10_000.0, 2000.0, 1300.0, 900.0, 300.0)]
    bits = [encoded_bytes(each.up, 1024) + encoded_bytes(each.down, 1024) for each in found]
    assert bits[:4] == sorted(bits[:4], reverse=True) and found[0].up == "bf16"
    assert [each.H for each in found] == sorted(each.H for each in found)
    assert found[-1].H > 24
    for choice, rate in zip(found, (10_000.0, 2000.0, 1300.0, 900.0, 300.0), strict=True):
        ask = regions(rate)
        assert line_need(ask, choice, ask.sites[0]).share <= 0.7


def test_a_site_whose_line_is_hopeless_is_left_out_by_name() -> None:
    ask = regions(2000.0)
    thin = replace(ask.sites[0], name="hut", up_mbit_s=40.0)
    found = choose(replace(ask, sites=(*ask.sites, thin)))
    assert found.left_out == ("hut",) and not found.trouble
    assert len(found.ask.sites) == 4
    alone = make_plan(replace(ask, sites=(thin,)))
    assert "hut" in alone.trouble and "Mbit/s at hut" in bottleneck(alone)[1]


def test_dear_egress_buys_fewer_bits() -> None:
    free = regions(20_000.0)
    dear = tuple(replace(s, price_per_hour=10.0, egress_per_gb=0.01) for s in free.sites)
    assert choose(free).choice.up == "bf16"
    assert choose(replace(free, sites=dear)).choice.up != "bf16"


def test_lines_carry_the_encoded_model_once_in_a_round_of_the_fastest() -> None:
    ask = regions(2000.0)
    slow = replace(ask.sites[1], step_s=6.0)
    ask = replace(ask, sites=(ask.sites[0], slow))
    need = line_need(ask, Choice(24, 24, "int4", "int8"), slow)
    assert need.up_bytes_s == pytest.approx(encoded_bytes("int4", 12_000_000_000) / 72)
    assert need.down_bytes_s == pytest.approx(encoded_bytes("int8", 12_000_000_000) / 72)
    assert need.join_s == pytest.approx(48e9 * 8 / 2e9 + 0.08)


def test_the_syncers_memory_is_that_of_its_states_and_increments() -> None:
    module = torch.nn.Linear(500, 400, bias=False)
    layout = Layout.from_module(module, 4)
    settings = MergeSettings(outer=OuterSettings("nesterov"), downlink_codec="int8")
    held = 0
    for fragment in layout.fragments:
        state = FragmentMerger(fragment, settings).initial(torch.zeros(fragment.numel))
        tensors = [state.theta, state.published.values, *state.outer.values()]
        held += sum(each.numel() * each.element_size() for each in tensors)
        held += 8 * encoded_bytes("int8", fragment.numel)
    ask = Ask(layout.numel, (Site("a", 1.0),))
    need = syncer_need(ask, Choice(4, 24, "int8", "int8"), tau=2)
    merging = need.merge_threads * 20 * layout.numel // 4
    assert need.memory_bytes - need.contribution_bytes - merging == pytest.approx(held, rel=0.01)


def test_a_learner_keeps_one_fp32_base_and_parts_on_their_way() -> None:
    memory = learner_memory(24_000_000, Choice(24, 24, "bf16", "bf16"))
    assert memory.base_bytes == 96_000_000
    assert 8_000_000 < memory.transfer_bytes < 24_000_000


def test_cost_is_hours_times_prices_and_bytes_times_egress() -> None:
    site = Site("a", 1.0, price_per_hour=10.0, egress_per_gb=0.1)
    place = SyncerPlace(price_per_hour=2.0, egress_per_gb=0.2)
    ask = Ask(10**9, (site, replace(site, name="b")), place)
    found = cost(ask, Choice(24, 24, "bf16", "bf16"), hours=24.0)
    per_learner_gb = 24 * 3600 / 24 * 2
    assert (found.compute, found.syncer) == (480.0, 48.0)
    assert found.egress == pytest.approx(2 * per_learner_gb * 0.3)
    assert found.total == pytest.approx(528 + found.egress)


def test_a_money_budget_buys_the_tokens_that_it_pays_for() -> None:
    site = Site("a", 1.0, price_per_hour=10.0)
    plan = make_plan(Ask(10**8, (site,), budget_money=240.0))
    assert plan.cost.total == pytest.approx(240.0, rel=0.01)
    assert plan.tokens == pytest.approx(24 * 3600 * 1e6, rel=0.01)


def test_failures_cost_more_the_more_there_are() -> None:
    island = Site("a", 15.0, chips=150_000, mtbi_years=1.0)
    assert chips_left(replace(island, mtbi_years=0.0)) == 1.0
    assert 0.85 < chips_left(island) < 0.91, "the published elastic job has 88 %"
    assert chips_left(replace(island, chips=600_000)) < chips_left(island)
    ask, choice = Ask(10**9, (island,)), Choice(24, 24, "bf16", "bf16")
    spot = replace(island, interruptions_per_hour=1.0, return_s=900.0)
    gone_s = 900 + line_need(ask, choice, island).join_s + 12 * 15
    assert site_left(ask, choice, spot) == pytest.approx(3600 / (3600 + gone_s))


def test_the_outlook_multiplies_failures_and_what_is_merged() -> None:
    site = Site("a", 1.0, interruptions_per_hour=2.0)
    ask = Ask(10**8, (site, replace(site, name="b")))
    found = outlook(ask, Choice(24, 24, "bf16", "bf16"))
    assert found.goodput == pytest.approx(found.trained * found.merged)
    assert found.interruptions < 0.8 < found.merged
    plan = make_plan(ask)
    held_back, helps = bottleneck(plan)
    assert "taken away" in held_back and "shorter return" in helps


def test_every_value_has_a_reason_and_the_document_is_plain(published: Plan) -> None:
    advice = [*settings_advice(published), *expectation_advice(published)]
    names = {each.name for each in advice}
    assert {"M", "P", "H", "tau", "K", "precision", "goodput", "cost", "joining"} <= names
    assert all(len(each.reason.split()) >= 3 for each in advice)
    document = to_plain(published)
    assert document["settings"]["uplink"] == "int8"
    assert document["days"] == pytest.approx(published.hours / 24)
    assert document["bottleneck"] and document["what_helps"]


def test_the_example_is_read() -> None:
    ask = read_ask(EXAMPLE)
    assert ask.params == 12_000_000_000 and len(ask.sites) == 4
    assert ask.sites[3].interruptions_per_hour == 0.25
    assert not choose(ask).trouble


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"params": "many"}, "write it as 12e9"),
        ({"site": []}, r"write a \[\[site\]\]"),
        ({"site": [{"name": "a", "step_s": 1.0, "chip": 2}]}, "did you mean 'chips'"),
        ({"site": [{"name": "a"}]}, "step_s"),
        ({"site": [{"name": "a", "step_s": 0}]}, "set it above 0"),
        ({"site": [{"name": "a", "step_s": 1.0, "latency_ms": -1}]}, "set it to 0 or more"),
        ({"site": [{"name": "a", "step_s": 1}, {"name": "a", "step_s": 1}]}, "own name"),
        ({"tokens": 1e9, "budget_money": 5}, "leave one of them out"),
        ({"budget_money": 5}, "set price_per_hour"),
        ({"syncer": {"cores": 0}}, "set it above 0"),
        ({"sites": []}, "did you mean 'site'"),
    ],
)
def test_a_mistake_names_the_fix(change: dict[str, object], fix: str) -> None:
    plain: dict[str, object] = {"params": 1e9, "site": [{"name": "a", "step_s": 1.0}]}
    with pytest.raises(SettingsError, match=fix):
        ask_from({**plain, **change})
