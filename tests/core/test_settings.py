"""Protocol settings: what cannot work is refused with the fix, and nothing is taken silently."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import pytest

from atoll.core.settings import ProtocolSettings, SettingsError, from_mapping, unknown_key


def test_the_defaults_are_the_designs() -> None:
    s = ProtocolSettings()
    assert (s.P, s.H, s.K, s.max_staleness, s.min_token_share) == (24, 24, 1, 2, 0.5)
    assert (s.age_limit_steps, s.tau_limit_steps, s.on_quorum_loss) == (48, 12, "wait")


def test_k_is_a_number_or_all_of_m() -> None:
    assert ProtocolSettings(M=5, K=2).quorum == 2
    assert ProtocolSettings(M=5, K="all").quorum == 5


def test_first_calls_are_staggered_and_none_is_before_a_step() -> None:
    s = ProtocolSettings(P=4, H=24)
    assert [s.first_offset_steps(p) for p in range(4)] == [24, 6, 12, 18]


@pytest.mark.parametrize(
    ("settings", "num_steps", "rounds"),
    [
        (ProtocolSettings(H=24), 720, 30),
        (ProtocolSettings(H=24), 721, 31),
        (ProtocolSettings(H=24), 0, 0),
        (ProtocolSettings(P=2, H=4, first_H=2, growing_rounds=4), 8, 4),
        (ProtocolSettings(P=2, H=4, first_H=2, growing_rounds=4), 10, 4),
        (ProtocolSettings(P=2, H=4, first_H=2, growing_rounds=4), 11, 5),
    ],
)
def test_rounds_are_shorter_while_h_grows(
    settings: ProtocolSettings, num_steps: int, rounds: int
) -> None:
    assert settings.rounds_within(num_steps) == rounds


def test_paper_means_overwrite_and_drop() -> None:
    s = from_mapping({"receipt": "paper", "M": 8})
    assert (s.receipt, s.unmerged, s.M) == ("overwrite", "drop", 8)


@pytest.mark.parametrize(
    ("key", "near"),
    [("gama", "gamma"), ("max_stalenes", "max_staleness"), ("TAU", "tau"), ("h", "H")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, near: str) -> None:
    with pytest.raises(SettingsError, match=f"'{key}': did you mean '{near}'"):
        from_mapping({key: 1})


def test_a_key_that_is_near_to_nothing_is_refused_with_all_that_are_known() -> None:
    assert "known are M, P, H" in unknown_key("zzzzz", ("M", "P", "H"))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"M": 0}, "M = 0"),
        ({"P": 2.5}, "P = 2.5"),
        ({"H": True}, "H = True"),
        ({"P": 25}, "set P to 24 or less"),
        ({"K": 4}, "set K to 3 or less"),
        ({"K": "some"}, "or 'all'"),
        ({"K": 0}, "K = 0"),
        ({"tau": 24}, "set tau below 24, or to 'auto'"),
        ({"tau": 0}, "or 'auto'"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.1}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"min_token_share": 1.5}, "from 0 to 1"),
        ({"min_token_share": -0.1}, "from 0 to 1"),
        ({"on_quorum_loss": "stop"}, "'wait', 'degrade'"),
        ({"weighting": "loss"}, "'quality', 'tokens', 'uniform'"),
        ({"receipt": "mix"}, "'paper'"),
        ({"unmerged": "keep"}, "'carry', 'drop'"),
        ({"alpha": 2}, "alpha"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"max_age_steps": 23}, "set it to 24 or more"),
        ({"scale_stale": "yes"}, "true or false"),
        ({"busy_after_steps": 0.5}, "1 or more"),
        ({"look_ahead": 25}, "H = 24 or less"),
        ({"first_H": 25}, "24 or less"),
        ({"first_H": 11}, "first_H to 16 or more, or P to 16"),
        ({"first_H": "h"}, "'H'"),
        ({"first_H": 16, "tau": 16}, "first_H = 16"),
        ({"growing_rounds": 0}, "growing_rounds"),
        ({"look_ahead": -1}, "look_ahead"),
        ({"silence_s": 3.0}, "set silence_s to 4.0 or more"),
        ({"beat_s": 0.0}, "seconds above 0"),
        ({"first_round_s": float("inf")}, "seconds above 0"),
        ({"min_round_s": -1.0}, "seconds above 0"),
        ({"retry_s": "1"}, "seconds above 0"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_fix(values: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_mapping(values)
    assert word in str(caught.value)


def test_the_methods_that_are_settings_can_be_set() -> None:
    diloco = from_mapping({"M": 8, "P": 1, "H": 50, "K": "all", "tau": 1})
    streaming = from_mapping({"M": 8, "P": 24, "H": 24, "K": "all", "tau": 5, "receipt": "alpha"})
    local_step_1 = from_mapping({"M": 8, "P": 1, "H": 1, "K": "all", "tau": 1})
    assert (diloco.quorum, streaming.receipt, local_step_1.H) == (8, "alpha", 1)


def test_every_setting_has_a_docstring_of_its_own() -> None:
    import ast
    import inspect

    from atoll.core import settings

    tree = ast.parse(inspect.getsource(settings))
    (body,) = [n.body for n in tree.body if getattr(n, "name", "") == "ProtocolSettings"]
    named = [
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
    ]
    assert named == [each.name for each in fields(ProtocolSettings)]
