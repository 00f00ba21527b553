"""A syncer that stops, or is killed: what was announced is there again, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from atoll.core import messages as msg
from atoll.merge.merge import MergeSettings
from atoll.merge.outer import OuterSettings
from atoll.store.errors import RunExists, RunNotFound
from atoll.syncer.errors import SyncerError
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import SyncerSettings
from syncer.lagoon import (
    SECRET,
    Client,
    Http,
    Merger,
    begun,
    serving,
    settings_of,
    sha,
    until,
)
from syncer.processes import doomed, running


def continue_as(client: Client, port: int) -> msg.Welcome:
    client.port, client.http = port, Http(port)
    return client.hello()


def test_stop_and_start_keeps_versions_bytes_and_incarnations(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        for _ in range(5):
            merger.round()
        before = {p: client.fetch(p).body for p in range(2)}
        client.close()
    with serving(tmp_path, settings_of()) as service:
        welcome = continue_as(client, service.address.port)
        assert (welcome.epoch, welcome.resumed, welcome.ready) == (2, True, True)
        assert {p: client.fetch(p).body for p in range(2)} == before
        for p, version in sorted(merger.versions.items()):
            published = client.expect(msg.Published, fragment=p)
            assert (published.version, published.epoch) == (version, 2)
        for _ in range(3):
            merger.round()
        client.leave()


def test_snapshots_in_the_background_shorten_what_is_replayed(tmp_path: Path) -> None:
    settings = settings_of(snapshot_every_merges=2)
    with serving(tmp_path, settings, new=True) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        for _ in range(6):
            merger.round()
        until(lambda: client.http.status()["counts"]["snapshots"] >= 2, "two snapshots")
        client.close()
    with serving(tmp_path, settings) as service:
        continue_as(client, service.address.port)
        for p, version in sorted(merger.versions.items()):
            assert client.fetch(p).headers["atoll-version"] == str(version)
        merger.round()
        client.leave()


@pytest.mark.parametrize(("when", "num_records"), [("torn", 8), ("before", 7), ("after", 9)])
def test_a_syncer_killed_at_an_fsync_loses_no_merge_that_was_seen(
    tmp_path: Path, when: str, num_records: int
) -> None:
    settings = settings_of()
    seen: dict[int, msg.Published] = {}
    with running(doomed(tmp_path, settings, when, num_records, "--new")) as process:
        client = begun(process.ready()["port"])
        merger = Merger(client)

        def rounds() -> None:
            for _ in range(20):
                published = merger.round()
                seen[published.fragment] = published

        with pytest.raises((ConnectionClosed, OSError, EOFError)):
            rounds()
        assert process.code() == -9
        client.close()
    with serving(tmp_path / "runs", settings) as service:
        welcome = continue_as(client, service.address.port)
        assert welcome.resumed
        for p in range(2):
            reply = client.fetch(p)
            assert reply.headers["etag"] == f'"{sha(reply.body)}"'
            version = int(reply.headers["atoll-version"])
            announced = seen[p].version if p in seen else 0
            # What was written whole may count, though it was not announced; a torn record may not.
            assert version in (announced, announced + (when != "torn"))
            if p in seen and version == announced:
                assert reply.headers["etag"] == f'"{seen[p].digest}"'
            merger.versions[p] = version
        status = client.http.status()
        assert status["phase"] == "training"
        client.leave()


def test_a_run_that_is_not_there_is_refused_with_the_way_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="start a new run on purpose"):
        SyncerService(settings_of(), SyncerOptions(tmp_path, SECRET)).start()


def test_a_new_run_never_overwrites_one(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True):
        pass
    with pytest.raises(RunExists):
        SyncerService(settings_of(), SyncerOptions(tmp_path, SECRET, new=True)).start()


def test_a_run_does_not_go_on_under_other_numbers(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True):
        pass
    kept = settings_of()
    other = SyncerSettings(
        kept.run, kept.protocol, MergeSettings(outer=OuterSettings("sgd", lr=1.0)), kept.service
    )
    with pytest.raises(SyncerError, match="begun with"):
        SyncerService(other, SyncerOptions(tmp_path, SECRET)).start()
