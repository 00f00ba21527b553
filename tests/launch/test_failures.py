"""Rows of the table in docs/failures.md on one run of real processes, under its supervisor.

One run for all: each test does its damage, sees it healed, and leaves the run as it found it. When
all are over the tapes of the whole story are verified.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from atoll.access.addresses import Address
from atoll.access.invite import read_invite, write_invite
from atoll.launch.folder import RunFolder
from atoll.launch.leases import with_leases
from atoll.launch.local import LocalRun
from atoll.runfile.settings import read_run_file
from atoll.store.orders import DISK_FULL
from atoll.tape.verify import verify
from launch.shore import RUN, SRC
from leftovers import processes_of

LIMIT_S = 90.0
A, B = "island-0", "island-1"


@dataclass
class Story:
    """The run, the link by which island-1 comes in, and where the syncer's disk is filled."""

    local: LocalRun
    link: subprocess.Popen[str]
    orders: Path

    def wait(self, what: str, until: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            self.local.poll()
            if found := until():
                return found
            assert time.monotonic() < deadline_s, f"{what} never came: {self.local.incidents}"
            time.sleep(0.05)

    @property
    def status(self) -> dict[str, Any]:
        return self.local.progress.status

    def versions(self) -> list[int]:
        return [each["version"] for each in self.status["shards"]["0"]["fragments"]]

    def life(self, name: str) -> int:
        return int(self.status.get("learners", {}).get(name, {}).get("incarnation", 0))

    def state(self, name: str) -> str:
        return str(self.status.get("learners", {}).get(name, {}).get("state", "gone"))

    def steps(self, name: str) -> int:
        path = self.local.folder.metrics(name)
        return path.read_text().count("step_s") if path.exists() else 0

    def merging(self, *names: str) -> None:
        """Every fragment is merged anew, and these are in the newest versions."""
        self.local.poll()
        wanted = [version + 2 for version in self.versions()]

        def merged() -> bool:
            versions = self.versions()
            return all(now >= want for now, want in zip(versions, wanted, strict=True)) and all(
                self.status["merged_in"].get(name) for name in names
            )

        self.wait(f"the work of {names}", merged)

    def order(self, **fields: Any) -> None:
        assert self.link.stdin is not None and self.link.stdout is not None
        self.link.stdin.write(json.dumps({"links": [0], **fields}) + "\n")
        self.link.stdin.flush()
        assert self.link.stdout.readline().strip() == "ok"

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.local.learners[name].pid, number)

    def said(self, name: str, words: str) -> bool:
        return any(each.name == name and words in each.what for each in self.local.incidents)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home = tmp_path_factory.mktemp("story")
    file = home / "small.toml"
    text = RUN.format(budget=10**9, port=0, standby=0, lease_s=20.0)
    file.write_text(text.replace('standby = "127.0.0.1:0"', "") + "learners = 2\n")
    folder = RunFolder(home / "run")
    run_file, _ = folder.prepare(with_leases(read_run_file(file)))
    link = subprocess.Popen(
        [sys.executable, "-m", "atoll.chaos.proxy", str(folder.address().port), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(SRC)),
    )
    assert link.stdin is not None and link.stdout is not None
    (port,) = json.loads(link.stdout.readline())
    invite = replace(read_invite(folder.invite), addresses=(Address("127.0.0.1", port),))
    folder.own_invite(B).parent.mkdir(parents=True)
    write_invite(folder.own_invite(B), invite)
    made = Story(LocalRun(folder, run_file, new=True), link, home / "orders")
    made.orders.mkdir()
    made.local.syncer_options = ["--chaos-dir", str(made.orders)]
    try:
        made.local.start()
        made.wait("both learners", lambda: made.status and min(made.life(A), made.life(B)) > 0)
        made.wait("version 0", lambda: min(made.versions()) >= 0)
        made.merging(A, B)
        yield made
    finally:
        made.local.stop()
        link.stdin.close()
        link.wait(LIMIT_S)
        link.stdout.close()
    assert processes_of(folder.root) == []
    verdict = verify(folder.tapes)
    assert verdict.ok, [each for each in verdict.checks if not each.ok]


@pytest.mark.slow
def test_a_learner_dies_and_the_spare_goes_on_under_its_name(story: Story) -> None:
    story.wait("the spare", story.local.spare.is_warm)
    spare, life = story.local.spare.pid, story.life(A)
    story.local.learners[A].kill()
    story.wait("its next life", lambda: story.life(A) > life)
    assert story.local.learners[A].pid == spare
    assert story.said(A, "goes on in the spare process")
    story.merging(A, B)


@pytest.mark.slow
def test_a_learner_stalls_is_left_out_and_merged_again_when_it_thaws(story: Story) -> None:
    life = story.life(A)
    story.signal(A, signal.SIGSTOP)
    story.wait("its absence", lambda: story.state(A) != "live")
    story.merging(B)
    assert not story.status["merged_in"].get(A), "nobody waited for it"
    story.signal(A, signal.SIGCONT)
    story.merging(A, B)
    assert story.life(A) == life, "it goes on in the same life"


@pytest.mark.slow
def test_the_link_is_cut_and_the_learner_trains_on_and_catches_up(story: Story) -> None:
    life, before = story.life(B), story.steps(B)
    story.order(up={"cut": True}, down={"cut": True})
    story.wait("its absence", lambda: story.state(B) == "away")
    story.wait("its steps all the same", lambda: story.steps(B) >= before + 20)
    story.merging(A)
    story.order(up={}, down={})
    story.merging(A, B)
    assert story.life(B) == life, "it goes on in the same life"


@pytest.mark.slow
def test_the_syncer_dies_and_nothing_that_was_seen_is_lost(story: Story) -> None:
    seen, steps, lives = story.versions(), story.steps(A), (story.life(A), story.life(B))
    epoch = story.status["epoch"]
    story.local.syncer.kill()
    story.wait("the next syncer", lambda: story.status["epoch"] > epoch)
    assert story.steps(A) > steps, "learners train on"
    assert all(now >= then for now, then in zip(story.versions(), seen, strict=True))
    story.merging(A, B)
    assert (story.life(A), story.life(B)) == lives, "they were not asked to begin anew"
    assert story.said("syncer", "was killed by signal 9; it is started again")


@pytest.mark.slow
def test_a_disk_fills_a_record_is_torn_and_all_goes_on_when_there_is_room(story: Story) -> None:
    """Even the syncer that is started on the full disk cannot begin, and is tried again."""
    lives = (story.life(A), story.life(B))
    (story.orders / DISK_FULL).touch()
    story.wait("the loud error", lambda: "disk full" in story.status["trouble"])
    seen = story.versions()
    story.local.syncer.kill()
    story.wait("a start that fails", lambda: story.said("syncer", "ended with status 1"))
    steps = story.steps(A)
    story.wait("steps all the same", lambda: story.steps(A) > steps)
    (story.orders / DISK_FULL).unlink()
    story.merging(A, B)
    assert all(now >= then for now, then in zip(story.versions(), seen, strict=True))
    assert (story.life(A), story.life(B)) == lives


@pytest.mark.slow
def test_all_learners_are_gone_and_the_syncer_waits_with_its_state(story: Story) -> None:
    """Nobody starts them again for a while: the supervisor is not asked to look."""
    lives = {name: story.life(name) for name in (A, B)}
    for name in (A, B):
        story.local.learners[name].kill()
    status = story.local._status
    end_s = time.monotonic() + LIMIT_S
    while (now := status()) and now["coordinator"]["live"]:
        assert time.monotonic() < end_s
        time.sleep(0.05)
    kept = [each["version"] for each in now["shards"]["0"]["fragments"]]
    assert status()["waiting"], "and says for what it waits"
    story.wait("their next lives", lambda: all(story.life(n) > lives[n] for n in (A, B)))
    assert all(now >= then for now, then in zip(story.versions(), kept, strict=True))
    story.merging(A, B)


def test_clocks_jump_and_nobody_who_decides_reads_them() -> None:
    """Deadlines and ages are of the monotonic clock. Who reads the other one only shows it."""
    allowed = {
        "access/tls.py": "certificates are valid from a day before they were made",
        "cli/demo.py": "the name of a folder",
        "cli/export.py": "shown",
        "ferry/inner_file.py": "the age of a file, to choose among copies",
        "store/orders.py": "for faults on purpose",
    }
    reads = re.compile(r"time\.time\(|datetime\.(now|today|utcnow)|localtime|gmtime|time_ns\(")
    package = Path(SRC) / "atoll"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if reads.search(path.read_text(encoding="utf-8")) or "strftime" in path.read_text()
    }
    assert found <= set(allowed), found - set(allowed)


def test_every_test_that_the_table_names_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs/failures.md").read_text("utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py")]
    there = {
        name for text in sources for name in re.findall(r"^def (test_\w+)\(", text, re.MULTILINE)
    }
    assert named - there == set() and len(named) > 30
