"""`atoll watch`: what it shows, over TLS too, and while the syncer is away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from atoll.access.addresses import Address
from atoll.access.invite import Invite, read_invite, write_invite
from atoll.access.tokens import new_secret
from atoll.cli.watch import is_over, summary, view
from atoll.launch.folder import RunFolder
from atoll.launch.status import Look, Watcher
from atoll.runfile.template import Choices, run_file_text
from cli.served import command, free_port, served

STATUS: dict[str, Any] = {
    "phase": "training",
    "waiting": "1 of the 2 learners that a merge needs are live",
    "coordinator": {
        "registered": 2,
        "live": 1,
        "busy": 0,
        "away": 1,
        "trained": 250_000,
        "merged": 240_000,
        "budget": 1_000_000,
        "data_pass": 1,
        "leases_held": 3,
        "repeated_items": 1234,
    },
    "shards": {
        "0": {"tally": {"merges": 7, "thin": 1, "learners_merged": 9, "learners_live": 12}},
        "1": {"tally": {"merges": 5, "thin": 0, "learners_merged": 6, "learners_live": 8}},
    },
    "learners": {
        name: {
            "state": state,
            "connected": state == "live",
            "step": 40,
            "tokens": 1000,
            "pace_s": 0.25,
            "incarnation": 3,
        }
        for name, state in (("site-a", "live"), ("site-b", "away"))
    },
    "counts": {"bytes_in": 2_500_000, "bytes_out": 1_000_000},
}


def watch(*options: object) -> int:
    return command("watch", *options)


def shown(look: Look) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(view(look, "reef"))
    return capture.get()


def test_a_look_shows_what_matters():
    text = shown(Look(STATUS))
    for words in (
        "run 'reef'  training  25%  250k of 1,000k tokens",
        "1 of the 2 learners that a merge needs are live",
        "2 registered: 1 live, 0 busy, 1 away",
        "12 merges (1 thin) of 1.2 learners each, participation 75%",
        "1 whole pass over the data, 3 leases held, 1,234 items repeated",
        "2.5 MB in, 1.0 MB out",
        "away (not connected)",
    ):
        assert words in text
    assert "not answered" not in text


def test_a_syncer_that_is_silent_is_told_beside_what_was_last_seen():
    text = shown(Look(STATUS, "connection refused", 42.0))
    assert "the syncer has not answered for 42 s: connection refused" in text
    assert "site-b" in text
    assert "unknown" in shown(Look({}, "connection refused"))
    assert summary(Look({}, "x"), "reef")["answers"] is False


def test_only_an_ended_run_is_over():
    assert not is_over(Look(STATUS)) and not is_over(Look({}, "gone"))
    assert is_over(Look({"phase": "ended"}))


def prepared(tmp_path: Path) -> tuple[Path, RunFolder]:
    """A run on this machine, under TLS."""
    port, folder = free_port(), RunFolder(tmp_path / "reef")
    run_file = tmp_path / "reef.toml"
    run_file.write_text(run_file_text(Choices("reef", port, "127.0.0.1", 2, "tiny")))
    folder.admit("reef", [Address("127.0.0.1", port)], has_tls=True)
    return run_file, folder


@pytest.mark.slow
def test_a_run_is_watched_under_tls_through_a_restart_of_its_syncer(tmp_path, capsys):
    run_file, folder = prepared(tmp_path)
    now = iter((10.0, 14.0))
    watcher = Watcher(read_invite(folder.invite), lambda: next(now))
    with served(run_file, folder.root) as ready:
        assert ready["tls"] is True
        assert watch(folder.root, "--once", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["answers"] and document["phase"] == "starting"
        assert "no learner has brought the layout" in document["waiting"]
        assert watcher.look().answers
        stranger = Invite("reef", watcher.invite.addresses, watcher.invite.ca_pem, new_secret())
        write_invite(tmp_path / "stranger.invite", stranger)
        assert watch(tmp_path / "stranger.invite", "--once") == 2
        assert "does not take this invite" in capsys.readouterr().err
    assert [watcher.look().silent_s for _ in range(2)] == [0.0, 4.0]
    assert watch(folder.invite, "--once") == 1
    assert "has not answered" in capsys.readouterr().out
    with served(run_file, folder.root):
        look = watcher.look()
        assert look.answers and look.silent_s == 0.0


def test_a_place_without_an_invite_says_where_one_is(tmp_path, capsys):
    assert watch(tmp_path, "--once") == 2
    assert "name the file run.invite, or the folder of a run" in capsys.readouterr().err
