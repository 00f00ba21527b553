"""A standby on the same disk takes over from a syncer that is gone, and from one that sleeps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.shore import Shore


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Shore]:
    made = Shore(tmp_path)
    yield made
    made.close()


def under_way(shore: Shore, *learners: str) -> None:
    """A syncer with a standby behind it, and learners whose work is merged."""
    shore.syncer()
    shore.wait("the syncer", lambda: shore.events("syncer"))
    shore.standby()
    for name in learners:
        shore.learner(name)
    shore.wait("the standby", lambda: shore.events("standby"))
    shore.wait("all learners", lambda: len(shore.lives()) == len(learners))
    shore.merging()


def leave(shore: Shore, *names: str) -> None:
    for name in names:
        shore.signal(name, signal.SIGTERM)
    for name in names:
        assert shore.end_of(name) == 0, shore.logs()


@pytest.mark.slow
def test_syncer_dies_and_its_standby_continues_in_seconds(shore: Shore) -> None:
    under_way(shore, "ann", "bob")
    assert shore.events("standby")[0]["event"] == "standby"
    before, lives = shore.versions(), shore.lives()
    shore.kill("syncer")
    shore.wait("the takeover", lambda: len(shore.events("standby")) == 3)
    _, takeover, ready = shore.events("standby")
    assert takeover["event"] == "takeover" and "no sign of life" in takeover["why"]
    assert ready["event"] == "ready"
    assert ready["port"] == shore.invite.addresses[1].port
    shore.merging()
    assert shore.status()["epoch"] == 2 and shore.lives() == lives
    assert all(now > then for now, then in zip(shore.versions(), before, strict=True))
    leave(shore, "ann", "bob")
    leave(shore, "standby")
    shore.verified()


@pytest.mark.heavy
def test_old_syncer_wakes_up_and_is_fenced(shore: Shore) -> None:
    under_way(shore, "ann")
    shore.signal("syncer", signal.SIGSTOP)
    shore.wait("the takeover", lambda: len(shore.events("standby")) == 3)
    shore.merging()
    shore.signal("syncer", signal.SIGCONT)
    assert shore.end_of("syncer") == 3
    assert "fenced: the run" in shore.said("syncer")
    assert "now belongs to epoch 2 (process" in shore.said("syncer")
    shore.merging()
    leave(shore, "ann")
    leave(shore, "standby")
    shore.verified()


@pytest.mark.heavy
def test_standby_takes_over_at_once_from_one_that_stops_and_waits_again_when_that_is_back(
    shore: Shore,
) -> None:
    """Nobody has brought a layout: the run itself need not have begun."""
    shore.syncer()
    shore.wait("the syncer", lambda: shore.events("syncer"))
    shore.standby()
    shore.wait("the standby", lambda: shore.events("standby"))
    shore.signal("syncer", signal.SIGTERM)
    assert shore.end_of("syncer") == 0
    shore.wait("the takeover", lambda: len(shore.events("standby")) == 3)
    assert "has stopped" in shore.events("standby")[1]["why"]
    shore.syncer()
    shore.wait("its return to waiting", lambda: len(shore.events("standby")) == 4)
    again = shore.events("standby")[3]
    assert (again["event"], again["after_epoch"]) == ("standby", 3)
    assert "now belongs to epoch 3" in shore.said("standby")
    assert "this standby waits for its turn again" in shore.said("standby")
    assert shore.status()["epoch"] == 3
    for name in ("standby", "syncer"):
        shore.signal(name, signal.SIGTERM)
        assert shore.end_of(name) == 0
