"""Manifests: one number, one winner; what is half there is not there."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from atoll.store.disk import LocalDisk
from atoll.store.errors import DiskFailed, Fenced, ManifestDamaged
from atoll.store.manifest import Manifest, ManifestBook, Owner, manifest_file, read_manifest
from store.model import faulty


def manifest(number: int, epoch: int = 1, pid: int = 11) -> Manifest:
    return Manifest("reef", number, epoch, Owner("lab", pid), (), (), epoch, 1)


def book(directory: Path, hard_links: bool = True) -> ManifestBook:
    if hard_links:
        return ManifestBook(directory, LocalDisk())
    (directory / "x").mkdir(exist_ok=True)
    return ManifestBook(directory, faulty(directory / "x", hard_links=False))


TOO_LONG = "x" * 300
"""A link to it is a path that is neither there nor not there: looking at it is an error."""

BOTH = pytest.mark.parametrize("hard_links", [True, False])


@BOTH
def test_the_highest_number_is_the_run(tmp_path: Path, hard_links: bool) -> None:
    mine = book(tmp_path, hard_links)
    assert mine.latest().manifest is None
    for number in (1, 2, 3):
        mine.commit(manifest(number))
    latest = book(tmp_path).latest()
    assert latest.manifest == manifest(3) and latest.next_number == 4 and latest.notes == ()
    assert mine.method.startswith("hard link" if hard_links else "claim and rename")
    assert not list(tmp_path.glob(".tmp-*"))


@BOTH
def test_who_loses_a_number_is_fenced_and_told_by_whom(tmp_path: Path, hard_links: bool) -> None:
    mine, theirs = book(tmp_path, hard_links), book(tmp_path, hard_links)
    mine.commit(manifest(1))
    mine.check_fence()
    theirs.commit(manifest(2, epoch=2, pid=22))
    with pytest.raises(Fenced, match=r"epoch 2 \(process 22 on lab\)"):
        mine.commit(manifest(2))
    with pytest.raises(Fenced) as caught:
        mine.check_fence()
    assert "process 22" in caught.value.winner and "must exit" in str(caught.value)
    assert read_manifest(tmp_path / manifest_file(2)).owner.pid == 22


@BOTH
def test_of_many_that_try_at_once_one_wins(tmp_path: Path, hard_links: bool) -> None:
    books = [book(tmp_path, hard_links) for _ in range(8)]
    won, lost = [], []
    start = threading.Barrier(len(books))

    def attempt(pid: int) -> None:
        start.wait()
        try:
            books[pid].commit(manifest(1, pid=pid))
            won.append(pid)
        except Fenced:
            lost.append(pid)

    threads = [threading.Thread(target=attempt, args=(pid,)) for pid in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == 7
    assert read_manifest(tmp_path / manifest_file(1)).owner.pid == won[0]


def test_an_old_number_that_became_free_again_is_no_way_in(tmp_path: Path) -> None:
    sleeper, owner = book(tmp_path), book(tmp_path)
    sleeper.commit(manifest(1))
    for number in range(2, 12):
        owner.commit(manifest(number, epoch=2))
    owner.remove_before(8)
    assert owner.numbers() == [8, 9, 10, 11]
    with pytest.raises(Fenced):
        sleeper.commit(manifest(2))
    with pytest.raises(Fenced):
        sleeper.check_fence()


def test_a_writer_that_falls_asleep_within_a_commit_is_fenced_at_its_end(tmp_path: Path) -> None:
    owner = book(tmp_path)

    class FallsAsleep(LocalDisk):
        def link(self, source: Path, target: Path) -> None:
            for number in range(2, 12):
                owner.commit(manifest(number, epoch=2))
            owner.remove_before(8)
            super().link(source, target)

    owner.commit(manifest(1))
    sleeper = ManifestBook(tmp_path, FallsAsleep())
    with pytest.raises(Fenced, match="epoch 2"):
        sleeper.commit(manifest(2))
    assert owner.latest().manifest == manifest(11, epoch=2)


def test_a_damaged_manifest_is_gone_behind_and_said(tmp_path: Path) -> None:
    mine = book(tmp_path)
    mine.commit(manifest(1))
    mine.commit(manifest(2))
    path = tmp_path / manifest_file(2)
    whole = bytearray(path.read_bytes())
    for at in range(len(whole) - 1):
        whole[at] ^= 2
        path.write_bytes(whole)
        latest = mine.latest()
        assert latest.manifest == manifest(1) and latest.next_number == 3
        assert str(path) in latest.notes[0]
        whole[at] ^= 2


def test_only_damaged_manifests_are_an_error_not_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / manifest_file(1)).write_bytes(b"{}")
    with pytest.raises(ManifestDamaged, match=r"manifest-000001\.json"):
        book(tmp_path).latest()


def test_a_manifest_of_a_later_format_is_refused(tmp_path: Path) -> None:
    later = Manifest("reef", 1, 1, Owner("lab", 1), (), (), 1, 1, format=9)
    book(tmp_path).commit(later)
    with pytest.raises(ManifestDamaged, match="format 9 needs another version"):
        read_manifest(tmp_path / manifest_file(1))


def test_a_claim_without_a_manifest_fences_and_is_then_skipped(tmp_path: Path) -> None:
    mine = book(tmp_path)
    mine.commit(manifest(1))
    (tmp_path / "claim-000002").touch()
    with pytest.raises(Fenced, match="whoever claimed manifest 2"):
        mine.check_fence()
    latest = mine.latest()
    assert latest.manifest == manifest(1) and latest.next_number == 3
    assert "never written" in latest.notes[0]


def test_a_link_that_fails_for_another_reason_is_no_reason_for_the_fallback(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    disk = faulty(tmp_path / "x", error_at=4, error_code=errno.EIO)
    mine = ManifestBook(tmp_path, disk)
    with pytest.raises(DiskFailed):
        mine.commit(manifest(1))
    assert disk.operations[3].startswith("link") and mine.method == "hard link"
    mine.commit(manifest(1))


def test_an_owner_whose_path_is_gone_commits_nothing(tmp_path: Path) -> None:
    mine = book(tmp_path / "here")
    (tmp_path / "here").mkdir()
    mine.commit(manifest(1))
    (tmp_path / "here").rename(tmp_path / "there")
    for look in (mine.check_fence, mine.glance_at_fence, lambda: mine.commit(manifest(2))):
        with pytest.raises(DiskFailed, match="not to be seen"):
            look()
    (tmp_path / "there").rename(tmp_path / "here")
    mine.check_fence()
    mine.commit(manifest(2))


def test_a_path_that_cannot_be_looked_at_is_a_failed_disk(tmp_path: Path) -> None:
    mine = book(tmp_path / "here")
    (tmp_path / "here").mkdir()
    mine.commit(manifest(1))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "here").symlink_to(TOO_LONG)
    for look in (mine.check_fence, mine.glance_at_fence, mine.latest, mine.clean_temporaries):
        with pytest.raises(DiskFailed, match="File name too long"):
            look()


def test_a_manifest_that_cannot_be_looked_at_is_a_failed_disk(tmp_path: Path) -> None:
    (tmp_path / manifest_file(1)).symlink_to(TOO_LONG)
    with pytest.raises(DiskFailed, match="File name too long"):
        book(tmp_path).latest()


def test_a_glance_does_not_wait_for_a_commit(tmp_path: Path) -> None:
    class Busy(LocalDisk):
        def fsync_dir(self, path: Path) -> None:
            mine.glance_at_fence()
            super().fsync_dir(path)

    mine = ManifestBook(tmp_path, Busy())
    mine.commit(manifest(1))
    book(tmp_path).commit(manifest(2, epoch=2))
    with pytest.raises(Fenced):
        mine.glance_at_fence()
