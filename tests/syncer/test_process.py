"""The syncer as a process: what it prints, when it goes, and with which exit code."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from atoll.store.store import Store
from syncer.lagoon import RUN, Http, Merger, begun, settings_of
from syncer.processes import running, syncer


def test_it_says_where_it_listens_and_stops_in_order_at_sigterm(tmp_path: Path) -> None:
    settings = settings_of()
    with running(syncer(tmp_path, settings, "--new")) as process:
        ready = process.ready()
        assert ready["event"] == "ready"
        assert ready["address"] == f"127.0.0.1:{ready['port']}"
        client = begun(ready["port"])
        Merger(client).round()
        process.popen.send_signal(signal.SIGTERM)
        assert process.code() == 0
        said = process.errors()
        assert "s" * 43 not in said
        client.close()
    with Store.open(tmp_path / "runs", RUN) as store:
        assert len(store.snapshots) == 1
        assert list(store.recover().records()) == []


def test_it_goes_when_its_parent_is_gone(tmp_path: Path) -> None:
    command = syncer(tmp_path, settings_of(), "--new", "--watch-stdin")
    with running(command, stdin=subprocess.PIPE) as process:
        process.ready()
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        process.popen.stdin = None
        assert process.code() == 0


def test_a_mistake_of_the_users_has_code_2_and_the_fix(tmp_path: Path) -> None:
    with running(syncer(tmp_path, settings_of())) as process:
        assert process.code() == 2
        assert "--new" in process.errors()
    broken = syncer(tmp_path, settings_of(), "--new")
    (tmp_path / "settings.json").write_text(json.dumps({"run": {"budget_tokns": 1}}))
    with running(broken) as process:
        assert process.code() == 2
        assert "did you mean 'budget_tokens'" in process.errors()


def test_a_process_that_lost_the_run_to_another_is_fenced(tmp_path: Path) -> None:
    with running(syncer(tmp_path, settings_of(), "--new")) as process:
        client = begun(process.ready()["port"])
        with (
            Store.open(tmp_path / "runs", RUN),
            pytest.raises((ConnectionClosed, OSError, EOFError, TimeoutError)),
        ):
            Merger(client).round()  # its merge cannot become this process' any more
        assert process.code() == 3
        assert "fenced" in process.errors()
        client.close()


def test_it_exits_when_the_run_has_ended(tmp_path: Path) -> None:
    settings = settings_of(budget_tokens=150)
    command = syncer(tmp_path, settings, "--new", "--exit-when-ended", "--linger-s", "0.1")
    with running(command) as process:
        client = begun(process.ready()["port"])
        client.train(2)
        assert process.code() == 0
        client.close()


def test_two_processes_cannot_begin_the_same_run(tmp_path: Path) -> None:
    settings = settings_of()
    with running(syncer(tmp_path, settings, "--new")) as process:
        port = process.ready()["port"]
        with running(syncer(tmp_path, settings, "--new")) as other:
            assert other.code() == 2
        http = Http(port)
        assert http.ask("GET", "/healthz").status == 200
        http.close()
