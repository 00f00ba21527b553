"""One learner's way through a whole round, over real sockets."""

from __future__ import annotations

from pathlib import Path

from atoll.core import messages as msg
from atoll.merge.chain import Increment, first_version, follow
from syncer.lagoon import Merger, begun, bytes_of, layout_of, serving, settings_of, sha, thetas


def test_a_round_from_hello_to_the_same_bytes_at_the_learner(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(), new=True) as service:
        client = begun(service.address.port)
        merger = Merger(client)
        theta = thetas(layout_of())

        full = client.fetch(0)
        assert full.status == 200
        assert full.headers["atoll-form"] == "full"
        assert full.headers["atoll-version"] == "0"
        assert full.body == bytes_of(theta[0])
        assert full.headers["etag"] == f'"{sha(full.body)}"'

        held = {p: first_version(values) for p, values in theta.items()}
        for _ in range(6):
            published = merger.round()
            p = published.fragment
            news = client.fetch(p, base=held[p].version)
            assert news.headers["atoll-form"] == "increments"
            assert news.headers["etag"] == f'"{published.digest}"'
            increment = Increment(published.version, "bf16", news.body, published.digest)
            held[p] = follow(held[p], (increment,))  # raises when the digest is not right
            assert client.fetch(p).body == bytes_of(held[p].values)
            mark = published.merged_by[0]
            assert (mark.learner, mark.version) == ("a", published.version)
        status = client.http.status()
        assert status["phase"] == "training"
        assert status["counts"]["merges"] == 6
        assert status["contributions"]["used_bytes"] == 0
        client.leave()


def test_a_second_learner_joins_later_and_is_merged_too(tmp_path: Path) -> None:
    with serving(tmp_path, settings_of(M=1), new=True) as service:
        first = begun(service.address.port)
        Merger(first).round()
        from syncer.lagoon import Client

        second = Client(service.address.port, "b")
        assert second.bring_layout().status == 200
        welcome = second.hello()
        assert welcome.ready
        assert welcome.incarnation > first.incarnation
        second.expect(msg.Published, fragment=0)
        assert second.http.status()["coordinator"]["live"] == 2
        first.leave()
        second.leave()
