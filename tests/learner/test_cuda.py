"""The same boundary on a CUDA device. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from atoll.core.ids import CutId
from atoll.ferry.island import Island
from atoll.ferry.mailbox import CutJob, InstallJob
from atoll.ferry.receipt import Received
from atoll.fragments import Layout
from atoll.learner.later import Later
from atoll.merge.chain import first_version

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_cut_and_install_travel_beside_the_current_stream() -> None:
    tensors = {"a": torch.randn(300, 70, device="cuda"), "b": torch.randn(70, device="cuda")}
    island = Island(Layout.from_tensors(tensors, 1), tensors)
    island.prepare()
    pointers = [tensor.data_ptr() for tensor in tensors.values()]
    version = first_version(torch.randn(300 * 70 + 70))
    received, ready = island.bring(Received("set", version.values))
    assert ready is not None
    ready.synchronize()
    done = island.carry_out(
        [InstallJob(0, version, received, ready), CutJob(0, CutId("ann", 1, 1))]
    )
    assert len(done.installs) == 1
    (taken,) = done.cuts
    assert torch.equal(taken.staging.values(), version.values)
    assert [tensor.data_ptr() for tensor in tensors.values()] == pointers


def test_keep_on_the_device_is_the_formula() -> None:
    tensors = {"a": torch.randn(64, 64, device="cuda")}
    island = Island(Layout.from_tensors(tensors, 1), tensors)
    island.prepare()
    held, newer, accepted = (torch.randn(64 * 64) for _ in range(3))
    before = tensors["a"].cpu().reshape(-1).clone()
    received, ready = island.bring(Received("keep", newer, held, accepted))
    assert ready is not None
    ready.synchronize()
    island.carry_out([InstallJob(0, first_version(newer), received, ready)])
    expected = ((before - held) - accepted) + newer
    assert torch.equal(tensors["a"].cpu().reshape(-1), expected)


def test_device_scalars_are_read_later() -> None:
    later = Later()
    later.give(torch.tensor(7, device="cuda"), torch.tensor(1.5, device="cuda"))
    assert later.settle() == [(7, 1.5)]
