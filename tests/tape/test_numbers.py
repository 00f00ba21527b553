"""Merges computed again from kept payloads: equal bit by bit, and a changed bit is found."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atoll.core.effects import Merge
from atoll.core.ids import Cut
from atoll.core.reasons import Reason
from atoll.fragments import Fragment, Piece
from atoll.merge.averaging import AveragingSettings
from atoll.merge.codecs import encode
from atoll.merge.merge import Contribution, FragmentMerger, FragmentState, MergeSettings
from atoll.simulator.payload import NoPayload
from atoll.tape.format import PAYLOADS, BaseNote, MergeNote
from atoll.tape.numbers import MergeRecomputer, state_bytes
from atoll.tape.payloads import ALL, PayloadFolder, digest_of
from atoll.tape.replay import replay
from tape.recorded import Recording, make_world

NUMEL = 300
FRAGMENT = Fragment((Piece("t", "matrix", False, 0, 1, 0, NUMEL),))
SETTINGS = MergeSettings(AveragingSettings("rda"))
MERGER = FragmentMerger(FRAGMENT, SETTINGS)


def first_state(fragment: int) -> FragmentState:
    return MERGER.initial(torch.linspace(-1, 1, NUMEL) * (fragment + 1))


class SmallPayload(NoPayload):
    """Displacements drawn from the name of the cut; the merge is the real one."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.keep = keep
        self.folders: dict[str, PayloadFolder] = {}
        self.states = {p: first_state(p) for p in range(6)}
        self.recording: Recording | None = None

    def upload(self, cut: Cut) -> bytes:
        name = hashlib.sha256(str(cut.id).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(name[:6], "big"))
        values = 1e-3 * torch.randn(NUMEL, generator=generator)
        return encode("bf16", values).numpy().tobytes()

    def initial(self, learner: str, fragment: int) -> str:
        return self.states[fragment].published.digest

    def merge(self, order: Merge, contributions: dict[str, bytes]) -> str:
        bodies = [contributions[f"{part.cut.id}/{order.fragment}"] for part in order.parts]
        parts = [
            Contribution(str(part.cut.id), "bf16", body, part.weight, part.scale)
            for part, body in zip(order.parts, bodies, strict=True)
        ]
        merged = MERGER.merge(self.states[order.fragment], parts)
        self.states[order.fragment] = merged.state
        note = MergeNote(
            fragment=order.fragment,
            version=order.version,
            backend=merged.backend,
            contributions=tuple(
                (part.name, "bf16", digest_of(body))
                for part, body in zip(parts, bodies, strict=True)
            ),
            delta=digest_of(merged.delta_bytes.numpy().tobytes()),
        )
        assert self.recording is not None
        party = f"shard-{order.fragment % 2}"
        _, writer = self.recording.writers[party]
        if party not in self.folders:
            self.folders[party] = PayloadFolder(self.recording.root / party / PAYLOADS, self.keep)
            self.folders[party].open()
        self.folders[party].keep((digest_of(body), body) for body in bodies)
        assert writer.note(note) == ""
        return merged.state.published.digest


def record(root: Path, keep: int) -> None:
    payload = SmallPayload(keep)
    world = make_world(9, payload=payload)
    payload.recording = Recording(world, root)
    world.run_for(60)
    payload.recording.close()


def recomputer(follow: bool = True) -> MergeRecomputer:
    again = MergeRecomputer([FRAGMENT] * 6, SETTINGS)
    for fragment in range(6) if follow else ():
        again.follow(fragment, first_state(fragment))
    return again


def test_every_merge_is_computed_again_to_the_same_bits(tmp_path: Path) -> None:
    record(tmp_path, ALL)
    report = replay(tmp_path, recomputer())
    assert report.equal, report.first_difference
    assert report.merges == report.merges_recomputed == report.versions_recomputed > 10
    assert not report.notes
    assert "published bytes" in report.compared()


def test_with_payloads_of_the_last_merges_only_those_are_computed(tmp_path: Path) -> None:
    record(tmp_path, 3)
    report = replay(tmp_path, recomputer(follow=False))
    assert report.equal, report.first_difference
    assert 1 <= report.merges_recomputed <= 6
    assert len(report.notes) == report.merges - report.merges_recomputed
    assert "was not kept" in report.notes[0]


def test_without_payloads_nothing_is_computed_and_that_is_said(tmp_path: Path) -> None:
    record(tmp_path, 0)
    report = replay(tmp_path, recomputer())
    assert report.equal and report.merges_recomputed == 0
    assert len(report.notes) == report.merges
    assert report.compared().startswith("decisions only")


def test_another_averaging_rule_is_found_without_any_state(tmp_path: Path) -> None:
    record(tmp_path, ALL)
    means = MergeSettings(averaging=AveragingSettings(rule="mean"))
    report = replay(tmp_path, MergeRecomputer([FRAGMENT] * 6, means))
    assert "the merged displacement differs" in report.first_difference


def test_parts_that_are_not_those_of_the_payloads_are_found(tmp_path: Path) -> None:
    note = MergeNote(fragment=0, version=1, backend="eager", contributions=())
    order = Merge(0, 1, 1, (), (), (), 0, False, Reason("all_in"))
    assert recomputer()(note, order, {"l0.1.1": b""}).refused
    assert "nothing to merge" in recomputer()(note, order, {}).refused


@pytest.mark.parametrize("follow", [True, False])
def test_a_payload_with_another_bit_is_found(tmp_path: Path, follow: bool) -> None:
    record(tmp_path, ALL)
    folder = tmp_path / "shard-0" / "payloads"
    path = min(folder.iterdir())
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    report = replay(tmp_path, recomputer(follow))
    assert "is not the one that was recorded" in report.first_difference


def test_other_merge_settings_are_found(tmp_path: Path) -> None:
    record(tmp_path, ALL)
    other = MergeRecomputer([FRAGMENT] * 6, replace(SETTINGS, downlink_codec="int8"))
    for fragment in range(6):
        other.follow(fragment, first_state(fragment))
    assert "the published bytes differ" in replay(tmp_path, other).first_difference


def test_a_backend_that_is_not_here_is_said() -> None:
    note = MergeNote(fragment=0, version=1, backend="compiled", contributions=())
    order = Merge(0, 1, 1, (), (), (), 0, False, Reason("all_in"))
    assert "not here" in recomputer()(note, order, {}).why_not


def test_a_state_that_was_kept_is_followed_and_a_changed_one_refused() -> None:
    state = MERGER.merge(
        first_state(0), [Contribution("l0.1.1", "fp32", encode("fp32", torch.ones(NUMEL)), 1.0)]
    ).state
    for each in (first_state(0), state):
        body = state_bytes(each)
        digest = each.published.digest
        note = BaseNote(fragment=0, version=each.version, published=digest, payload=digest_of(body))
        assert recomputer(follow=False).begin(note, body).refused == ""
        assert "is none" in recomputer(follow=False).begin(note, b"").refused
        other = state_bytes(MERGER.initial(each.published.values + 1))
        if not each.version:
            assert "not what was published" in recomputer().begin(note, other).refused
