"""The same boundary on a CUDA device. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from atoll.core.ids import CutId
from atoll.ferry.inner import InnerState
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


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"capturable": True}])
def test_inner_state_is_lent_beside_the_current_stream_and_taken_on_the_device(
    options: dict[str, bool],
) -> None:
    def trained(seed: int, num_steps: int) -> InnerState:
        torch.manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {
            name: torch.nn.Parameter(torch.randn(shape, device="cuda"))
            for name, shape in {"a": (300, 70), "b": (70,), "c": (2000, 33)}.items()
        }
        optimizer = torch.optim.AdamW(tensors.values(), lr=1e-3, **options)
        for _ in range(num_steps):
            for tensor in tensors.values():
                tensor.grad = torch.randn_like(tensor)
            optimizer.step()
        return InnerState(Layout.from_tensors(tensors, 3), tensors, [optimizer])

    donor, side = trained(0, 3), torch.cuda.Stream()
    copies = [donor.plan(fragment) for fragment in range(3)]
    expected = {
        name: {key: value.clone() for key, value in holder.state.items()}
        for name, holder in donor.holders.items()
    }
    assert all(copy.take(side) for copy in copies)
    for holder in donor.holders.values():
        holder.parameter.grad = torch.ones_like(holder.parameter)
        holder.optimizer.step()  # what comes after the boundary is not in the copy
    heir = trained(1, 0)
    assert heir.install({copy.fragment: copy.body() for copy in copies}) == 9
    for name, holder in heir.holders.items():
        for key, value in holder.state.items():
            wanted = expected[name][key]
            assert torch.equal(value, wanted), (name, key)
            assert (value.device, value.dtype) == (wanted.device, wanted.dtype), (name, key)
