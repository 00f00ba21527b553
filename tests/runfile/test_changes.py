"""Where two run files differ, by the names of their settings."""

from __future__ import annotations

from atoll.runfile.changes import Change, differences
from atoll.runfile.settings import parse

PLAIN = {
    "run": {"run": "reef", "budget_tokens": 1000},
    "train": {"model": {"preset": "tiny"}},
    "local": {"learners": 2},
}


def test_settings_that_differ_are_named_with_their_tables_in_the_order_of_the_file() -> None:
    model = {"preset": "tiny", "context": 32}
    old, new = parse(PLAIN), parse({**PLAIN, "train": {"batch_size": 3, "model": model}})
    context, batch = old.train.model.context, old.train.batch_size
    found = differences(old, new, ("train", "local"))
    assert {each.key: each for each in found} == {
        "train.batch_size": Change("train.batch_size", batch, 3),
        "train.model.context": Change("train.model.context", context, 32),
    }
    assert differences(old, new, ("local",)) == []
    assert differences(old, old, ("train", "local")) == []


def test_a_default_that_is_spelled_out_is_no_change() -> None:
    spelled = {**PLAIN, "local": {"learners": 2, "threads": 1, "restarts": 20}}
    assert differences(parse(PLAIN), parse(spelled), ("train", "local")) == []
