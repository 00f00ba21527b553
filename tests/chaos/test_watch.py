"""What became of faults and of work, from the tapes of a simulated storm."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.chaos.census import Census
from atoll.chaos.fates import DIED, OPEN, fates_of
from atoll.chaos.goodput import Pace, goodput, time_lost_s
from atoll.chaos.plan import Fault
from atoll.chaos.record import Struck
from atoll.chaos.tail import Seen, TapeTail
from atoll.chaos.watch import Watch
from atoll.chaos.work import Work
from atoll.core import effects as fx
from atoll.core import events as ev
from atoll.core.ids import Cut, CutId
from atoll.core.reasons import Reason
from atoll.simulator.world import World
from atoll.tape.format import segment_files
from atoll.tape.read import Entry, read_tapes
from tape.recorded import stormy_run

KILLED_S, CUT_S, SYNCER_KILLED_S, BACK_S, STARTED_S, END_S = 50.0, 65.0, 73.0, 78.0, 93.0, 153.0
SIZES = [1] * 6


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    root = tmp_path_factory.mktemp("tapes")
    return root, stormy_run(root, seed=11)


def watched(root: Path, struck: list[Struck]) -> tuple[Watch, list[str]]:
    said: list[str] = []
    watch = Watch(lambda what, each: said.append(f"{what} {each.fault.kind}"), struck=struck)
    for epoch in range(1, 10):
        watch.clocks.look(0.0, {"epoch": epoch, "now_s": 0.0})
    watch.read(TapeTail(root).read())
    return watch, said


def test_a_kill_is_noticed_at_once_and_healed_by_the_next_life_only(
    storm: tuple[Path, World],
) -> None:
    life = storm[1].learners["l1"].core.state.incarnation - 1
    kill = Struck(1, Fault(0, "kill", "l1"), KILLED_S, life, lifted_s=KILLED_S)
    _, said = watched(storm[0], [kill])
    assert said == ["noticed kill", "healed kill"]
    assert KILLED_S <= kill.noticed_s < KILLED_S + 15, "the close, or the silence"
    assert STARTED_S < kill.healed_s < END_S
    assert kill.heal_s == pytest.approx(kill.healed_s - KILLED_S)


def test_a_cut_link_is_healed_by_what_arrived_after_it_was_mended(
    storm: tuple[Path, World],
) -> None:
    cut = Struck(1, Fault(0, "cut", "l2", 13.0), CUT_S, 1, lifted_s=BACK_S)
    watched(storm[0], [cut])
    assert BACK_S <= cut.healed_s < STARTED_S
    assert cut.heal_after_lift_s == pytest.approx(cut.healed_s - BACK_S)


def test_a_killed_syncer_is_healed_by_the_first_merge_after_it(storm: tuple[Path, World]) -> None:
    kill = Struck(1, Fault(0, "kill_syncer"), SYNCER_KILLED_S, lifted_s=SYNCER_KILLED_S)
    watched(storm[0], [kill])
    assert BACK_S <= kill.healed_s < STARTED_S


def test_a_fault_that_still_holds_is_not_healed(storm: tuple[Path, World]) -> None:
    cut = Struck(1, Fault(0, "cut", "l2", 500.0), CUT_S, 1)
    watched(storm[0], [cut])
    assert not cut.is_healed and cut.plain()["heal_s"] == -1.0


def test_entries_of_an_epoch_that_was_never_looked_at_wait(storm: tuple[Path, World]) -> None:
    watch = Watch(lambda *_: None)
    watch.clocks.look(100.0, {"epoch": 1, "now_s": 40.0})
    watch.clocks.look(100.0, {"epoch": 1, "now_s": 60.0})
    seen = TapeTail(storm[0]).read()
    assert watch.clocks.ours_s(seen[0]) == pytest.approx(40.0 + seen[0].entry.now_s)
    watch.read(seen)
    before = watch.merges
    watch.give_up_waiting()
    assert 0 < before < watch.merges


def test_an_epoch_that_no_status_showed_holds_up_nobody_and_heals_nothing(
    storm: tuple[Path, World],
) -> None:
    seen = TapeTail(storm[0]).read()
    first, last = min(each.epoch for each in seen), max(each.epoch for each in seen)
    assert first < last, "the syncer was restarted"
    cut = Struck(1, Fault(0, "reset", "l2"), 0.0, 1, lifted_s=0.0)
    late = Struck(2, Fault(0, "reset", "l2"), BACK_S, 1, lifted_s=BACK_S)
    watch = Watch(lambda *_: None, struck=[cut, late])
    watch.clocks.look(0.0, {"epoch": last, "now_s": 0.0})
    watch.read(seen)
    assert watch.merges == sum(isinstance(each.entry.event, ev.Merged) for each in seen)
    assert cut.healed_s == late.healed_s, "by the first epoch that has a time"
    assert BACK_S <= cut.healed_s < END_S


def test_a_fault_of_the_end_that_no_status_followed_did_not_heal(
    storm: tuple[Path, World],
) -> None:
    cut = Struck(1, Fault(0, "reset", "l2"), 0.0, 1, lifted_s=0.0)
    watch = Watch(lambda *_: None, struck=[cut])
    watch.read(TapeTail(storm[0]).read())
    assert watch.merges == 0, "all may still get a time"
    watch.give_up_waiting()
    assert watch.merges > 0 and not cut.is_healed


def merge(learner: str, incarnation: int, number: int) -> list[Seen]:
    """The order of a merge of one contribution, and that it is durable; at 100 s."""
    cut = Cut(CutId(learner, incarnation, number), 0, 0, 10 * number, 10 * number + 10, 1, 1, 0)
    part = fx.Part(cut, 1.0, 1.0)
    order = fx.Merge(0, number, number, (part,), (), (), 10, thin=False, reason=Reason("merge"))
    entries = [
        Entry(0, 100.0, ev.Tick(), [order]),
        Entry(1, 100.0, ev.Merged(0, number, ""), []),
    ]
    return [Seen("shard-0", 1, each) for each in entries]


def looked_at() -> Watch:
    watch = Watch(lambda *_: None)
    watch.clocks.look(0.0, {"epoch": 1, "now_s": 0.0})
    return watch


def test_a_contribution_whose_arrival_was_not_seen_heals_nothing() -> None:
    watch, cut = looked_at(), Struck(1, Fault(0, "cut", "a", 5.0), 90.0, 1, lifted_s=95.0)
    watch.struck.append(cut)
    watch.read(merge("a", 1, 1))
    assert not cut.is_healed and watch.merges == 1


def test_a_life_that_spoke_before_the_kill_does_not_heal_it() -> None:
    watch, kill = looked_at(), Struck(1, Fault(0, "kill", "a"), 90.0, 0, lifted_s=90.0)
    watch.struck.append(kill)
    watch.work.reported(("a", 3), 80.0, 5)
    watch.read(merge("a", 3, 1))
    assert not kill.is_healed
    watch.work.reported(("a", 4), 97.0, 5)
    watch.read(merge("a", 4, 2))
    assert kill.healed_s == 100.0


def test_a_status_without_a_learner_does_not_make_its_life_unknown() -> None:
    watch = looked_at()
    member = {"incarnation": 7, "state": "live", "step": 3}
    watch.look(1.0, {"epoch": 1, "now_s": 1.0, "learners": {"a": member}})
    watch.look(2.0, {"epoch": 2, "now_s": 0.1, "learners": {}})
    assert watch.lives == {"a": 7}


def test_a_tail_that_is_read_in_pieces_gives_what_the_whole_gives(
    storm: tuple[Path, World], tmp_path: Path
) -> None:
    (tmp_path / "shard-0").mkdir()
    tail, found = TapeTail(tmp_path), list[Seen]()
    for _, path in segment_files(storm[0] / "shard-0"):
        data = path.read_bytes()
        for size in range(0, len(data) + 5000, 5000):
            (tmp_path / "shard-0" / path.name).write_bytes(data[:size])
            found += tail.read()
    tape = next(each for each in read_tapes(storm[0]) if each.party == "shard-0")
    items = [item for segment in tape.segments for item in segment.items()]
    entries = [item for item in items if isinstance(item, Entry)]
    assert [(each.entry.now_s, each.entry.event) for each in found] == [
        (entry.now_s, entry.event) for entry in entries
    ]


def test_merged_work_is_what_the_shards_counted(storm: tuple[Path, World]) -> None:
    root, world = storm
    watch, _ = watched(root, [])
    counted = [each for shard in world.shards for each in shard.core.state.fragments]
    total = sum(fragment.merged_tokens for fragment in counted) / len(counted)
    assert watch.work.merged_in(SIZES, 0.0, END_S) == pytest.approx(total, rel=0.02)


def test_every_token_of_the_learners_has_a_fate(storm: tuple[Path, World]) -> None:
    fates = fates_of(read_tapes(storm[0]), SIZES)
    total = fates.merged + sum(fates.dropped.values())
    assert total == pytest.approx(fates.trained, abs=len(fates.dropped) + 1)
    assert fates.dropped[DIED] > 0 and fates.dropped[OPEN] > 0


# ---------------------------------------------------------------- arithmetic by hand


def two_learners() -> Work:
    """Each does ten tokens a second for 100 s; all of a is merged, of b the first half."""
    work = Work()
    for name in ("a", "b"):
        for at_s in range(101):
            work.reported((name, 1), float(at_s), 10 * at_s)
    for fragment in range(2):
        work.merged(("a", 1), fragment, (0, 400))
        work.merged(("a", 1), fragment, (400, 1000))
        work.merged(("b", 1), fragment, (0, 500))
    return work


def test_goodput_counts_merged_work_where_it_was_trained() -> None:
    pace = Pace(learners=2, step_tokens=10, step_s=1.0)
    work = two_learners()
    assert goodput(work, [3, 1], pace, (0.0, 100.0)) == pytest.approx(0.75)
    assert goodput(work, [3, 1], pace, (0.0, 50.0)) == pytest.approx(1.0)
    assert goodput(work, [3, 1], pace, (50.0, 100.0)) == pytest.approx(0.5)
    assert time_lost_s(work, [3, 1], pace, "b", (40.0, 60.0)) == pytest.approx(10.0)
    assert work.lost(("b", 1), [3, 1]) == pytest.approx(500)


def test_a_fragment_counts_by_its_size() -> None:
    work = Work()
    work.reported(("a", 1), 0.0, 0)
    work.reported(("a", 1), 10.0, 100)
    work.merged(("a", 1), 0, (0, 100))
    assert work.merged_in([3, 1], 0.0, 10.0) == pytest.approx(75)


def test_work_is_never_counted_twice() -> None:
    work = Work()
    work.reported(("a", 1), 0.0, 0)
    work.reported(("a", 1), 10.0, 100)
    work.merged(("a", 1), 0, (0, 60))
    work.merged_through(("a", 1), 0, 60)
    work.merged(("a", 1), 0, (40, 80))
    work.merged_through(("a", 1), 0, 90)
    assert work.merged_in([1], 0.0, 10.0) == pytest.approx(90)


def status(epoch: int, merges: int, merged: int, live: int) -> dict[str, object]:
    tally = {"merges": merges, "thin": 0, "learners_merged": merged, "learners_live": live}
    coordinator = {"registered": 4, "live": 4, "trained": 0}
    shards, counts = {"0": {"tally": tally}}, {"refused": {"stale": merges}}
    return {"epoch": epoch, "coordinator": coordinator, "shards": shards, "counts": counts}


def test_participation_is_of_what_each_syncer_counted_itself() -> None:
    census = Census()
    looks = [(1, 10, 40, 40), (1, 12, 47, 48), (2, 3, 12, 12), (2, 5, 18, 20)]
    for at_s, look in enumerate(looks):
        census.look(float(at_s), status(*look), 1.0)
    assert census.counts["merges"] == 4
    assert census.participation == pytest.approx((7 + 6) / (8 + 8))
    assert census.all_refused() == {"stale": 12 + 5}
