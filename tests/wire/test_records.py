"""Everything the cores take, give and know survives being kept, exactly."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.core.coordinator_state import RunSettings
from atoll.core.effects import Merge, Part, Send
from atoll.core.ids import Cut, CutId, Mark
from atoll.core.learner import LearnerCore
from atoll.core.messages import Announce, Report
from atoll.core.quorum import Round
from atoll.core.reasons import Reason
from atoll.core.settings import ProtocolSettings
from atoll.core.shard import ShardCore
from atoll.wire.records import (
    RECORDS,
    RecordError,
    from_plain,
    pack,
    to_plain,
    unpack,
)
from wire.samples import of_class

CUT = Cut(CutId("lab", 3, 17), 2, 1, 100, 900, 8, 4, 40)
CHECKED_WHEN_MADE = ("ProtocolSettings", "RunSettings")
GENERATED = sorted(set(RECORDS) - set(CHECKED_WHEN_MADE))


def through_json(record: object) -> Any:
    kind, table = to_plain(record)
    return from_plain(kind, json.loads(json.dumps(table, allow_nan=False)))


def sentences(record: object) -> bytes:
    """Reasons compare by code; what they say must survive as well."""
    return pack(record)[1]


@pytest.mark.parametrize("kind", GENERATED)
def test_every_record_survives_both_ways(kind: str) -> None:
    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    @given(of_class(RECORDS[kind]))
    def check(record: Any) -> None:
        for again in (unpack(*pack(record)), through_json(record)):
            assert again == record
            assert type(again) is type(record)
            assert sentences(again) == sentences(record)

    check()


@pytest.mark.parametrize("chosen", [{}, {"K": "all", "tau": 3, "max_age_steps": 90, "alpha": 0.25}])
def test_settings_survive(chosen: dict[str, Any]) -> None:
    for record in (ProtocolSettings(**chosen), RunSettings("r", "l", 5, fragment_sizes=(3, 4))):
        assert unpack(*pack(record)) == record == through_json(record)


def test_a_state_with_a_round_a_merge_and_infinities_survives() -> None:
    core = ShardCore(ProtocolSettings(P=3, H=6), 0, 1)
    state = core.snapshot()
    state.roster.heap = [(1.5, "lab"), (float("inf"), "edge")]
    state.fragments[0].round = Round(3, 1.0, float("inf"), 0.5, 1.0, arrived={"lab": CUT})
    part = Part(CUT, 0.1 + 0.2, 1 / 3)
    marks = (Mark("lab", 3, 17, 2),)
    through = (("lab", 3, 900),)
    reason = Reason("all_in", "all in")
    state.fragments[1].merge = Merge(1, 2, 4, (part,), marks, through, 800, False, reason)
    for again in (unpack(*pack(state)), through_json(state)):
        assert again == state
        assert type(again.roster.heap[0]) is tuple
        assert again.fragments[1].merge.parts[0].weight == 0.1 + 0.2


def test_a_restored_core_goes_on_as_the_one_that_was_kept() -> None:
    core = LearnerCore(ProtocolSettings(), "lab", "layout")
    kept = LearnerCore.restore(ProtocolSettings(), "layout", unpack(*pack(core.snapshot())))
    assert kept.state == core.state


def test_the_message_inside_a_send_keeps_its_class() -> None:
    send = Send(("shard-0",), Announce(CUT), Reason("cut", "800 tokens"))
    for again in (unpack(*pack(send)), through_json(send)):
        assert isinstance(again.message, Announce)
        assert again.reason.sentence == "800 tokens"


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("Nothing", {}),
        ("Report", {}),
        ("Report", {**to_plain(Report("lab", 1, 2, 3, 0.5))[1], "surplus": 1}),
        ("Report", {**to_plain(Report("lab", 1, 2, 3, 0.5))[1], "step": "2"}),
        ("Send", {"to": [], "message": ["Send", {}], "reason": {"code": "x"}}),
        ("Send", {"to": [], "message": 5, "reason": {"code": "x"}}),
        ("Send", {"to": [], "message": [[], 5], "reason": {"code": "x"}}),
        ("ProtocolSettings", {**to_plain(ProtocolSettings())[1], "P": 0}),
    ],
)
def test_what_is_no_record_is_refused(kind: str, table: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        from_plain(kind, table)


@given(kind=st.sampled_from(sorted(RECORDS)), data=st.binary(max_size=60))
def test_unpacking_garbage_raises_nothing_else(kind: str, data: bytes) -> None:
    try:
        unpack(kind, data)
    except RecordError:
        pass


def test_only_records_are_kept() -> None:
    with pytest.raises(RecordError, match="not a record"):
        pack(object())
    with pytest.raises(RecordError, match="no message"):
        unpack("Send", msgspec.msgpack.encode([["a"], "Tick", {}, {"code": "x"}]))
