"""The gate for strangers: what fits comes through exactly, everything else is a WireError."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atoll.core import messages as msg
from atoll.core.ids import Cut, CutId, Mark, TransferId
from atoll.wire import frames
from atoll.wire.errors import WireError
from atoll.wire.frames import (
    BETWEEN_PARTIES,
    FROM_COORDINATOR,
    FROM_LEARNER,
    FROM_SHARD,
    FROM_SYNCER,
    decode,
    encode,
)
from atoll.wire.protocol import PROTOCOL, check_protocol
from atoll.wire.records import MESSAGES
from wire.samples import of_class

ALL = {**BETWEEN_PARTIES, **FROM_COORDINATOR, **FROM_SHARD}
CUT = Cut(CutId("lab", 3, 17), 2, 1, 100, 900, 8, 4, 40)
EXAMPLES: list[Any] = [
    msg.Hello("lab", "host:12", "abc", 3),
    msg.WantData("lab", 3, 2),
    msg.DataPosition("lab", 3, 900, 7, "öffset/12", True),
    msg.InitialOffered("lab", 3),
    msg.AskInner("lab", 3, "AdamW", 29.5, 7, 2),
    msg.InnerOver("lab", 3, TransferId(3, 2, 7), "given_up", "2 of 5 fragments came in 30 s"),
    msg.Report("lab", 3, 40, 900, 0.25),
    msg.Beat("lab", 3, 0.5, 0.0, (-1, 0, 4), (CUT, CUT), "evaluation"),
    msg.Leave("lab", 3, "the loop is over"),
    msg.Announce(CUT),
    msg.Welcome(2, "lab", 3, True, 4, False, "host:12"),
    msg.Rejected(2, "lab", "layout", "another layout", True, "host:12"),
    msg.Initialise(2, 30.0),
    msg.Begin(2),
    msg.Granted(2, 7, 0, 100, 200, -1, "100"),
    msg.Progress(2, 1000, 900, 10_000),
    msg.Finishing(2),
    msg.Ended(2, "the budget"),
    msg.Replaced(2, 4),
    msg.LendInner(2, TransferId(3, 2, 7), "AdamW", 4),
    msg.InnerHere(2, TransferId(3, 2, 7), "edge", 4, 65_536, "d" * 64),
    msg.InnerNone(2, "nobody", "no peer that trains is there"),
    msg.Call(2, 5, 9, 2),
    msg.Published(2, 5, 3, "d" * 64, (Mark("lab", 3, 17, 3), Mark("edge", 1, 2, 1))),
    msg.Dropped(2, CUT.id, 5, "stale", "its base is old"),
    msg.Wanted(2, CUT.id, 5),
    msg.Admitted("lab", 3),
    msg.Departed("lab", 3, "lost", False),
    msg.Finish(30.0),
    msg.FragmentReady(5),
    msg.Settled(5, 3, 900, (("lab", 3, 900),)),
    msg.FragmentFinal(5, -1),
]


def refused(frame: str | bytes, **options: Any) -> str:
    with pytest.raises(WireError) as caught:
        decode(frame, **options)
    assert caught.value.sentence
    return caught.value.code


def with_field(message: object, name: str, value: Any) -> str:
    party, kind, table = json.loads(encode("shard-0", message))
    table[name] = value
    return json.dumps([party, kind, table])


def test_every_message_has_a_direction_and_an_example() -> None:
    assert set(ALL) == set(MESSAGES) == {type(each).__name__ for each in EXAMPLES}
    groups = (FROM_LEARNER, FROM_SYNCER, FROM_COORDINATOR, FROM_SHARD)
    assert sum(map(len, groups)) == len(ALL)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda each: type(each).__name__)
def test_a_message_comes_through_exactly(message: Any) -> None:
    frame = encode("shard-3", message)
    assert decode(frame, kinds=ALL) == ("shard-3", message)
    assert decode(frame.encode(), kinds=ALL) == ("shard-3", message)
    assert hash(decode(frame, kinds=ALL)[1]) == hash(message)
    party, kind, table = json.loads(frame)
    assert (party, kind) == ("shard-3", type(message).__name__)
    assert isinstance(table, dict)


def test_what_a_strategy_builds_either_comes_through_or_is_refused() -> None:
    @settings(max_examples=300)
    @given(st.sampled_from(sorted(MESSAGES)).flatmap(lambda name: of_class(MESSAGES[name])))
    def check(message: Any) -> None:
        try:
            frame = encode("coordinator", message)
            found = decode(frame, kinds=ALL)
        except WireError:
            return
        assert found == ("coordinator", message)

    check()


def test_a_learner_cannot_speak_for_the_syncer() -> None:
    for kind in ("Admitted", "Departed", "Finish", "Settled", "FragmentReady", "FragmentFinal"):
        message = next(each for each in EXAMPLES if type(each).__name__ == kind)
        frame = encode("shard-0", message)
        assert refused(frame, kinds=FROM_LEARNER) == "not_allowed"
        assert refused(frame) == "not_allowed"
    call = encode("shard-0", msg.Call(1, 2, 3, 4))
    assert refused(call, kinds=FROM_LEARNER) == "not_allowed"
    assert decode(call, kinds=FROM_SYNCER)[1] == msg.Call(1, 2, 3, 4)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "null",
        "{}",
        "[]",
        '["shard-0","Report"]',
        '["shard-0","Report",{},1]',
        '["shard-0",5,{}]',
        b'["shard-0","\xff",{}]',
        '["shard-0","\ud800",{}]',
        "[" * 200_000,
        '["shard-0","Report",' + "[" * 200_000,
        '["shard-0","Begin",{"epoch":NaN}]',
        '["shard-0","Begin",{"epoch":1}]]',
    ],
    ids=range(13),
)
def test_what_is_no_frame_is_malformed(frame: str | bytes) -> None:
    assert refused(frame) == "malformed"


def test_unknown_kinds_and_parties_are_refused() -> None:
    assert refused('["shard-0","Tick",{}]') == "unknown_kind"
    assert refused('["shard-0","__class__",{}]') == "unknown_kind"
    for party in ("", "shard-", "shard-01", "shard-0\\n", "lab", "Coordinator", "shard-٣"):
        assert refused(f'["{party}","Begin",{{"epoch":1}}]') == "unknown_party"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learner", ""),
        ("learner", "a" * 65),
        ("learner", "a\n"),
        ("learner", "ä"),
        ("learner", "a/b"),
        ("learner", None),
        ("incarnation", -1),
        ("incarnation", 1.5),
        ("incarnation", True),
        ("incarnation", "3"),
        ("incarnation", 1 << 53),
        ("incarnation", 10**400),
        ("pace_s", -0.1),
        ("pace_s", "inf"),
        ("pace_s", None),
        ("pace_s", 1e300),
        ("surplus", 1),
    ],
)
def test_a_report_with_an_impossible_field_is_refused(name: str, value: Any) -> None:
    assert refused(with_field(msg.Report("lab", 3, 40, 900, 0.25), name, value)) == "fields"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-0.5", "1" * 5000])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    frame = encode("shard-0", msg.Report("lab", 3, 40, 900, 0.25)).replace("0.25", number)
    assert refused(frame) in ("fields", "malformed")


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda each: type(each).__name__)
def test_every_field_is_wanted_and_no_other(message: Any) -> None:
    party, kind, table = json.loads(encode("shard-0", message))
    for name in table:
        less = {key: value for key, value in table.items() if key != name}
        assert refused(json.dumps([party, kind, less]), kinds=ALL) == "fields"
    assert refused(with_field(message, "surplus", 1), kinds=ALL) == "fields"


def test_nested_fields_are_as_strict() -> None:
    party, kind, table = json.loads(encode("shard-0", msg.Announce(CUT)))
    for name, value in (("base", -1), ("surplus", 1), ("steps", 1.0), ("id", "lab.3.17")):
        odd = {**table["cut"], name: value}
        assert refused(json.dumps([party, kind, {"cut": odd}])) == "fields"
    settled = with_field(msg.Settled(5, 3, 900, ()), "through", [["lab", 3]])
    assert refused(settled, kinds=ALL) == "fields"


def test_sizes_are_limited() -> None:
    report = encode("shard-0", msg.Report("lab", 3, 40, 900, 0.25))
    assert refused(report, limit_bytes=len(report) - 1) == "too_large"
    assert decode(report, limit_bytes=len(report))
    wide = encode("shard-0", msg.Leave("lab", 3, "€" * 100))
    assert refused(wide, limit_bytes=len(wide)) == "too_large"
    beat = msg.Beat("lab", 3, 0.0, 0.0, (0,) * 70_000, ())
    assert refused(encode("shard-0", beat)) == "fields"
    assert refused(encode("coordinator", replace(EXAMPLES[2], position="x" * 5000))) == "fields"


def test_long_text_for_people_is_cut_off_when_sent() -> None:
    dropped = msg.Dropped(2, CUT.id, 5, "stale", "why " * 2000)
    _, again = decode(encode("shard-0", dropped))
    assert isinstance(again, msg.Dropped)
    assert again.sentence.startswith("why why") and again.sentence.endswith("…")
    assert len(again.sentence) == 2000


def test_nothing_that_is_not_finite_is_sent() -> None:
    for pace_s in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(WireError):
            encode("shard-0", msg.Report("lab", 3, 40, 900, pace_s))
    with pytest.raises(WireError):
        encode("shard-0", object())
    with pytest.raises(WireError):
        encode("shard-0", msg.Leave("lab", 3, "\ud800"))


def test_errors_show_no_control_characters() -> None:
    for frame in ('["shard-0","\\u001b[2J",{}]', '["\\u001b[2J","Begin",{}]'):
        with pytest.raises(WireError) as caught:
            decode(frame)
        assert caught.value.sentence.isprintable()


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_random_bytes_raise_only_wire_errors(frame: str | bytes) -> None:
    with pytest.raises(WireError):
        decode(frame, kinds=ALL)


@settings(max_examples=400)
@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.integers(0, 255)), max_size=6),
)
def test_mutated_frames_raise_only_wire_errors(message: Any, changes: list[Any]) -> None:
    frame = bytearray(encode("shard-0", message).encode())
    for at, how, byte in changes:
        at %= len(frame)
        if how == 0:
            frame[at] = byte
        elif how == 1:
            frame.insert(at, byte)
        elif len(frame) > 1:
            del frame[at]
    try:
        _, found = decode(bytes(frame), kinds=ALL)
    except WireError:
        return
    assert type(found) in MESSAGES.values()


@settings(max_examples=200)
@given(
    st.sampled_from(EXAMPLES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
    st.integers(0, 20),
)
def test_any_value_in_any_field_raises_only_wire_errors(
    message: Any, value: Any, index: int
) -> None:
    party, kind, table = json.loads(encode("shard-0", message))
    assume(table)
    table[sorted(table)[index % len(table)]] = value
    try:
        decode(json.dumps([party, kind, table]), kinds=ALL)
    except WireError:
        pass


def test_another_protocol_version_is_refused_with_both_named() -> None:
    check_protocol(str(PROTOCOL))
    for said in ("2", "", "1.0", None, "\x1b" * 99):
        with pytest.raises(WireError, match=f"protocol {PROTOCOL}") as caught:
            check_protocol(said)
        assert caught.value.sentence.isprintable()
    assert frames.LIMIT_BYTES == 1 << 20
