"""Every refusal has its status, a code and a sentence, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from atoll.access.errors import AccessError
from atoll.access.tokens import Role
from atoll.core import messages as msg
from atoll.core.ids import Cut, CutId
from atoll.fragments import Layout, TensorSpec
from atoll.merge.codecs import encode
from atoll.syncer.service import SyncerOptions, SyncerService
from syncer.lagoon import (
    PART,
    ROOT,
    SECRET,
    Client,
    Http,
    Merger,
    begun,
    bytes_of,
    control_of,
    crc_of,
    layout_of,
    place,
    serving,
    settings_of,
    thetas,
    until,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncerService]:
    root = tmp_path_factory.mktemp("run")
    with serving(root, settings_of(M=1, hello_s=0.3), new=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: SyncerService) -> Iterator[Client]:
    made = begun(service.address.port)
    Merger(made).round()
    yield made
    made.leave()


@pytest.fixture
def http(service: SyncerService, client: Client) -> Iterator[Http]:
    made = Http(service.address.port)
    yield made
    made.close()


def used_bytes(http: Http) -> int:
    used: int = http.status()["contributions"]["used_bytes"]
    return used


def a_cut(client: Client, fragment: int = 0, **changes: object) -> Cut:
    cut = client.cut(None, fragment, 0, 0)
    return replace(cut, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize(
    "path", ["/metrics", "/api/status", f"{ROOT}/settings", f"{ROOT}/control", "/nowhere"]
)
@pytest.mark.parametrize("header", ["", "Bearer " + "0" * 64, "Bearer", "Basic abc"])
def test_without_the_secret_nothing_is_said(http: Http, path: str, header: str) -> None:
    reply = http.ask("GET", path, headers={"Authorization": header})
    assert (reply.status, reply.code) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_secret_and_says_nothing_else(http: Http) -> None:
    reply = http.ask("GET", "/healthz", headers={"Authorization": "", "Atoll-Protocol": ""})
    assert (reply.status, reply.plain) == (200, {"ok": True})


def test_an_observer_looks_and_does_not_touch(service: SyncerService, client: Client) -> None:
    observer = Http(service.address.port, role=Role.OBSERVER)
    assert observer.ask("GET", f"{ROOT}/fragments/0").status == 200
    assert observer.ask("GET", "/metrics").status == 200
    reply = observer.ask("PUT", f"{ROOT}/layout", b"{}")
    assert (reply.status, reply.code) == (403, "observer")
    assert observer.ask("GET", f"{ROOT}/control").status == 403
    observer.close()


@pytest.mark.parametrize("said", ["", "2", "0", "banana"])
def test_another_protocol_is_refused_with_both_named(http: Http, said: str) -> None:
    reply = http.ask("GET", f"{ROOT}/settings", headers={"Atoll-Protocol": said})
    assert (reply.status, reply.code) == (426, "protocol")
    assert "speaks protocol 1" in reply.plain["sentence"]
    assert http.ask("GET", ROOT.replace("v1", "v2") + "/settings").status == 426


def test_another_run_and_unknown_paths_are_not_here(http: Http) -> None:
    other = http.ask("GET", "/atoll/v1/other/settings")
    assert (other.status, other.code) == (404, "run")
    unknown = http.ask("GET", f"{ROOT}/nothing")
    assert (unknown.status, unknown.code) == (404, "unknown_path")
    assert http.ask("GET", f"{ROOT}/fragments/9").status == 404
    assert http.ask("DELETE", f"{ROOT}/layout").status in (404, 405)


def test_nothing_listens_off_the_loopback_without_tls(tmp_path: Path) -> None:
    options = SyncerOptions(tmp_path, SECRET, new=True)
    with pytest.raises(AccessError, match="without TLS"):
        SyncerService(settings_of(host="0.0.0.0"), options).start()
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- layout and version 0


def test_another_layout_is_refused_with_both_fingerprints_and_the_first_difference(
    http: Http,
) -> None:
    specs = [TensorSpec("t0", (8, 16), "matrix"), TensorSpec("t1", (8, 17), "matrix")]
    other = Layout.from_specs(specs, 2)
    reply = http.ask("PUT", f"{ROOT}/layout", json.dumps(other.to_dict()).encode())
    assert (reply.status, reply.code) == (409, "layout")
    for word in (other.fingerprint(), layout_of().fingerprint(), "t1"):
        assert word in reply.plain["sentence"]
    assert http.ask("GET", f"{ROOT}/layout").plain == layout_of().to_dict()
    same = http.ask("PUT", f"{ROOT}/layout", json.dumps(layout_of().to_dict()).encode())
    assert same.status == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b'{"strategy": 3}'])
def test_what_is_no_layout_is_malformed(http: Http, body: bytes) -> None:
    reply = http.ask("PUT", f"{ROOT}/layout", body)
    assert (reply.status, reply.code) == (422, "malformed")


def test_version_0_cannot_come_twice(http: Http) -> None:
    body = bytes_of(thetas(layout_of(), seed=9)[0])
    part = http.ask("PUT", f"{ROOT}/initial/0/parts/0", body, crc_of(body))
    assert (part.status, part.code) == (409, "conflict")
    commit = http.commit(f"{ROOT}/initial/1", "fp32", body)
    assert (commit.status, commit.code) == (409, "conflict")


def test_before_the_layout_everything_else_waits(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True) as fresh:
        http = Http(fresh.address.port)
        for method, path in (
            ("GET", "fragments/0"),
            ("GET", "control"),
            ("PUT", "contributions/a.1.1/0/parts/0"),
        ):
            reply = http.ask(method, f"{ROOT}/{path}", b"x" if method == "PUT" else None)
            assert (reply.status, reply.code) == (503, "starting")
            assert reply.headers["retry-after"] == "1"
        assert http.ask("GET", f"{ROOT}/layout").code == "no_layout"
        assert http.status()["phase"] == "starting"
        assert http.ask("GET", f"{ROOT}/settings").plain["layout"] == ""
        http.close()


# ---------------------------------------------------------------- contributions


def test_wrong_sizes_are_refused_before_memory_is_taken(http: Http, client: Client) -> None:
    cut = a_cut(client)
    right = bytes_of(encode("bf16", torch.zeros(128)))
    for body in (right[:-1], right + b"x", b"", b"x" * PART):
        reply = http.ask("PUT", f"{place(cut)}/parts/0", body, crc_of(body))
        assert (reply.status, reply.code) == (413, "size")
        assert used_bytes(http) == 0
    assert http.ask("PUT", f"{place(cut)}/parts/1", right, crc_of(right)).status == 404
    chunked = http.ask("PUT", f"{place(cut)}/parts/0", iter([right]), crc_of(right))
    assert (chunked.status, chunked.code) == (411, "length")
    assert used_bytes(http) == 0


def test_parts_are_idempotent_and_conflicts_are_named(http: Http, client: Client) -> None:
    cut = a_cut(client)
    body, other = (bytes_of(encode("bf16", torch.full((128,), v))) for v in (1.0, 2.0))
    bad = http.ask("PUT", f"{place(cut)}/parts/0", body, crc_of(other))
    assert (bad.status, bad.code) == (422, "checksum")
    assert http.ask("GET", f"{place(cut)}/parts").plain == {"parts": []}
    for _ in range(2):
        assert http.ask("PUT", f"{place(cut)}/parts/0", body, crc_of(body)).status == 204
    conflict = http.ask("PUT", f"{place(cut)}/parts/0", other, crc_of(other))
    assert (conflict.status, conflict.code) == (409, "conflict")
    assert http.ask("GET", f"{place(cut)}/parts").plain == {"parts": [0]}


def test_commits_that_do_not_fit_are_refused(http: Http, client: Client) -> None:
    cut = a_cut(client)
    body = bytes_of(encode("bf16", torch.ones(128)))
    missing = http.commit(place(cut), "bf16", body, cut)
    assert (missing.status, missing.code) == (409, "missing")
    http.put_parts(place(cut), body)
    other = http.commit(place(cut), "bf16", body, replace(cut, fragment=1))
    assert (other.status, other.code) == (422, "malformed")
    assert http.commit(place(cut), "int8", body, cut).code == "malformed"
    size = http.commit(place(cut), "bf16", body + b"x", cut)
    assert (size.status, size.code) == (413, "size")
    for raw in (b"", b"{}", b"[]", json.dumps({"cut": asdict(cut), "bytes": True}).encode()):
        reply = http.ask("POST", f"{place(cut)}/commit", raw)
        assert (reply.status, reply.code) == (422, "malformed")
    wrong = {"codec": "bf16", "bytes": len(body), "sha256": "0" * 64, "cut": asdict(cut)}
    digest = http.ask("POST", f"{place(cut)}/commit", json.dumps(wrong).encode())
    assert (digest.status, digest.code) == (422, "checksum")
    assert http.ask("GET", f"{place(cut)}/parts").plain == {"parts": []}


def test_values_that_are_not_finite_are_refused_and_the_learner_is_told(
    http: Http, client: Client
) -> None:
    client.train(1)
    cut = client.cut(None, 0, 0, client.tokens - 100)
    body = bytearray(bytes_of(encode("bf16", torch.ones(128))))
    body[6:8] = b"\x80\x7f"
    http.put_parts(place(cut), bytes(body))
    reply = http.commit(place(cut), "bf16", bytes(body), cut)
    assert (reply.status, reply.code) == (422, "non_finite")
    dropped = client.expect(msg.Dropped, cut=cut.id)
    assert dropped.code == "non_finite"
    assert http.status()["contributions"]["waiting"] == 0


def test_a_cut_that_cannot_be_merged_is_refused_with_the_shards_reason(
    http: Http, client: Client
) -> None:
    client.train(1)
    cut = client.cut(None, 1, base=7, first_token=client.tokens - 100)
    reply = client.contribute(cut, torch.ones(128))
    assert (reply.status, reply.code) == (409, "unknown_base")
    assert client.expect(msg.Dropped, cut=cut.id).code == "unknown_base"
    stranger = Cut(CutId("nobody", 1, 1), 0, 0, 0, 100, 1, 0, 1)
    body = bytes_of(encode("bf16", torch.ones(128)))
    part = http.ask("PUT", f"{place(stranger)}/parts/0", body, crc_of(body))
    assert (part.status, part.code) == (409, "stale")


def test_a_cut_that_was_merged_may_be_sent_and_committed_again(http: Http, client: Client) -> None:
    news = next(m for m in client.heard if isinstance(m, msg.Published) and m.merged_by)
    mark = news.merged_by[0]
    path = f"{ROOT}/contributions/{mark.learner}.{mark.incarnation}.{mark.cut}/{news.fragment}"
    assert http.ask("GET", f"{path}/parts").plain == {"parts": [0]}
    body = bytes_of(encode("bf16", torch.ones(128)))
    assert http.ask("PUT", f"{path}/parts/0", body, crc_of(body)).status == 204
    id = CutId(mark.learner, mark.incarnation, mark.cut)
    cut = Cut(id, news.fragment, 0, 0, 100, 1, 1, 1)
    assert http.commit(path, "bf16", body, cut).status == 202


def test_memory_for_contributions_is_bounded(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(P=8, memory_bytes=1100), new=True) as small:
        client = begun(small.address.port, layout=layout_of(P=8))
        body = bytes_of(encode("bf16", torch.zeros(128)))
        replies = []
        for p in range(8):
            path = f"{ROOT}/contributions/a.{client.incarnation}.{p + 1}/{p}"
            replies.append(client.http.ask("PUT", f"{path}/parts/0", body, crc_of(body)))
            assert client.http.status()["contributions"]["used_bytes"] <= 1100
        assert [reply.status for reply in replies] == [204] * 3 + [503] * 5
        assert replies[-1].code == "memory"
        assert replies[-1].headers["retry-after"] == "1"
        client.leave()


# ---------------------------------------------------------------- downloads


def test_ranges_are_of_one_version_only(http: Http, client: Client) -> None:
    whole = http.ask("GET", f"{ROOT}/fragments/0")
    tag = whole.headers["etag"]
    part = http.ask(
        "GET", f"{ROOT}/fragments/0", headers={"Range": "bytes=100-299", "If-Match": tag}
    )
    assert part.status == 206
    assert part.headers["content-range"] == f"bytes 100-299/{len(whole.body)}"
    assert part.body == whole.body[100:300]
    tail = http.ask("GET", f"{ROOT}/fragments/0", headers={"Range": "bytes=500-"})
    assert tail.body == whole.body[500:]
    changed = http.ask(
        "GET", f"{ROOT}/fragments/0", headers={"Range": "bytes=0-9", "If-Match": '"other"'}
    )
    assert (changed.status, changed.code) == (412, "changed")
    beyond = http.ask("GET", f"{ROOT}/fragments/0", headers={"Range": "bytes=999999-"})
    assert (beyond.status, beyond.code) == (416, "range")


def test_a_base_that_was_never_published_is_refused(http: Http, client: Client) -> None:
    reply = http.ask("GET", f"{ROOT}/fragments/0?base=99")
    assert (reply.status, reply.code) == (409, "unknown_base")
    assert http.ask("GET", f"{ROOT}/fragments/0?base=x").status == 422
    newest = http.ask("GET", f"{ROOT}/fragments/0").headers["atoll-version"]
    nothing_new = http.ask("GET", f"{ROOT}/fragments/0?base={newest}")
    assert (nothing_new.status, nothing_new.body) == (200, b"")
    assert nothing_new.headers["atoll-form"] == "increments"


# ---------------------------------------------------------------- control


def closed_by(port: int, *frames: str | bytes) -> tuple[int, str]:
    def read_all(socket: ClientConnection) -> None:
        for frame in frames:
            socket.send(frame)
        while True:
            socket.recv(timeout=10)

    with control_of(port) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            read_all(socket)
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason


REPORT = '["coordinator","Report",{"learner":"b","incarnation":1,"step":1,"tokens":1,"pace_s":1.0}]'


def hello_of(name: str) -> str:
    fields = {"learner": name, "process": "x", "layout": layout_of().fingerprint()}
    return json.dumps(["coordinator", "Hello", {**fields, "incarnation": 0}])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (["nonsense"], "malformed"),
        (["[]"], "malformed"),
        (['["coordinator","Nothing",{}]'], "unknown_kind"),
        (['["coordinator","Begin",{"epoch":1}]'], "not_allowed"),
        (['["coordinator","Admitted",{"learner":"a","incarnation":9}]'], "not_allowed"),
        (['["coordinator","Hello",{"learner":"a"}]'], "fields"),
        ([b"\x00\x01"], "malformed"),
        ([REPORT], "hello"),
        ([hello_of("c"), REPORT], "foreign"),
        ([hello_of("d"), hello_of("e")], "foreign"),
        ([hello_of("f").replace("coordinator", "shard-0")], "foreign"),
        ([hello_of("g").replace("coordinator", "shard-7")], "foreign"),
    ],
)
def test_frames_that_do_not_belong_close_the_connection_with_the_reason(
    service: SyncerService, client: Client, frames: list[str | bytes], code: str
) -> None:
    closed, reason = closed_by(service.address.port, *frames)
    assert closed == 1008
    assert reason.split(":")[0] == code


def test_whoever_says_no_hello_is_sent_away(service: SyncerService, client: Client) -> None:
    assert closed_by(service.address.port) == (1008, "hello: no hello within 0.3 s")


def test_another_layouts_learner_is_rejected_in_the_coordinators_words(
    service: SyncerService, client: Client
) -> None:
    other = Client(service.address.port, "z", layout=layout_of(rows=4))
    other.greet()
    rejected = other.expect(msg.Rejected)
    assert (rejected.code, rejected.final) == ("layout", True)
    other.close()


def test_the_control_socket_asks_for_the_secret_too(service: SyncerService, client: Client) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        control_of(service.address.port, Authorization="Bearer nothing"),
    ):
        pass
    assert refused.value.response.status_code == 401


def test_a_newer_process_replaces_the_older_one_which_is_told(
    service: SyncerService, client: Client
) -> None:
    old = Client(service.address.port, "r", "first")
    old.hello()
    new = Client(service.address.port, "r", "second")
    assert new.hello().incarnation > old.incarnation
    assert old.expect(msg.Replaced).incarnation == new.incarnation
    with pytest.raises(ConnectionClosed):
        old.expect(msg.Welcome)
    old.close()
    until(lambda: new.http.status()["learners"]["r"]["connected"], "the newer one stays")
    new.leave()


def test_refusals_are_counted_on_this_side(http: Http, client: Client) -> None:
    http.ask("GET", f"{ROOT}/nothing", headers={"Authorization": ""})
    metrics = http.ask("GET", "/metrics").body.decode()
    assert 'atoll_refused_total{code="unauthorized"}' in metrics
    assert 'atoll_learner_step{learner="a"}' in metrics
    assert "atoll_merge_seconds_count" in metrics
