"""Inner optimizer state: what travels, what is refused, and the checkpoint on the own disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from atoll.ferry.errands import Checkpoints
from atoll.ferry.inner import InnerState
from atoll.ferry.inner_file import FRAME, MAGIC, InnerFile, Owner, read_inner
from atoll.ferry.mailbox import InnerJob
from atoll.fragments import Layout
from atoll.fragments.inner import InnerStateError, contents_of
from atoll.fragments.model import tensors_of
from atoll.learner.restoring import Circumstances, restore

P = 4
OWNER = Owner("reef", "ann", "f" * 64, "AdamW()")
Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def island(
    make: Make = adamw, num_steps: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, torch.optim.Optimizer, InnerState]:
    """A model of which one tensor is cut over fragments, after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 16), nn.Linear(16, 2)).to(dtype)
    optimizer = make(model.parameters())
    for _ in range(num_steps):
        train(model, optimizer)
    return (
        model,
        optimizer,
        InnerState(Layout.from_module(model, P), tensors_of(model), [optimizer]),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(16)).square().mean().backward()
    optimizer.step()


def lent(inner: InnerState) -> dict[int, memoryview]:
    bodies = {}
    for fragment in range(P):
        copied = inner.plan(fragment)
        assert copied.take(None)
        bodies[fragment] = copied.body()
    return bodies


@pytest.mark.parametrize(
    "make",
    [
        adamw,
        lambda p: torch.optim.AdamW(p, amsgrad=True, fused=False, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda p: torch.optim.NAdam(p),
        lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9),
        lambda p: torch.optim.Adagrad(p),
    ],
    ids=["adamw", "amsgrad", "fused", "sgd", "nadam", "rmsprop", "adagrad"],
)
def test_a_step_on_a_peers_state_is_the_peers_own_step(make: Make) -> None:
    model, optimizer, donor = island(make)
    other, others, heir = island(make, num_steps=0, seed=1)
    assert donor.is_there and not heir.is_there and donor.kind == heir.kind
    heir.install(lent(donor))
    other.load_state_dict(model.state_dict())
    train(model, optimizer)
    train(other, others)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_bodies_are_safetensors_and_groups_settings_stay_the_islands_own() -> None:
    _, _, donor = island(lambda p: torch.optim.AdamW(p, lr=0.5))
    bodies = lent(donor)
    names = {name for body in bodies.values() for name in load(bytes(body))}
    assert {name.split("/")[0] for name in names} == {"exp_avg", "exp_avg_sq", "step"}
    _, optimizer, heir = island(num_steps=0)
    heir.install(bodies)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_several_optimizers_and_state_in_another_precision() -> None:
    torch.manual_seed(0)

    def two(dtype: torch.dtype, num_steps: int) -> InnerState:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
        optimizers = [torch.optim.AdamW(model[0].parameters())]
        optimizers += [torch.optim.SGD(model[1].parameters(), lr=1e-3, momentum=0.9)]  # type: ignore[list-item]
        for _ in range(num_steps):
            model(torch.randn(4, 8, dtype=dtype)).square().mean().backward()
            for each in optimizers:
                each.step()
        layout = Layout.from_module(model, 2)
        return InnerState(layout, tensors_of(model), optimizers)

    donor, heir = two(torch.bfloat16, 2), two(torch.float32, 0)
    assert donor.kind == "AdamW() SGD(momentum)"
    copies = [donor.plan(fragment) for fragment in range(2)]
    assert all(each.take(None) for each in copies)
    heir.install({each.fragment: each.body() for each in copies})
    for name, holder in heir.holders.items():
        for key, value in holder.state.items():
            assert value.dtype == torch.float32, (name, key)
            assert torch.equal(value, donor.holders[name].state[key].float())


def test_what_cannot_be_cut_by_rows_is_not_lent() -> None:
    model, optimizer, inner = island()
    optimizer.state[model[1].weight]["preconditioner"] = torch.eye(8)
    with pytest.raises(InnerStateError, match="cannot be cut by rows"):
        lent(inner)
    optimizer.state[model[1].weight]["preconditioner"] = "a text"
    with pytest.raises(InnerStateError, match="no tensor"):
        lent(inner)


def test_state_that_changed_between_plan_and_boundary_is_not_taken() -> None:
    model, optimizer, inner = island()
    (fragment,) = [f for f in range(P) if "2.bias" in str(inner.layout.fragments[f].pieces)]
    copied = inner.plan(fragment)
    optimizer.state[model[2].bias].clear()
    assert not copied.take(None)


def test_nothing_is_installed_unless_everything_fits() -> None:
    _, _, donor = island()
    bodies = lent(donor)
    _, optimizer, heir = island(num_steps=0)
    partial = {fragment: bodies[fragment] for fragment in range(P - 1)}
    with pytest.raises(InnerStateError, match=r"fragments \[3\] are missing"):
        heir.install(partial)
    poisoned = bytearray(bodies[0])
    poisoned[-4:] = struct.pack("<f", float("nan"))
    with pytest.raises(InnerStateError, match="not finite"):
        heir.install({**bodies, 0: memoryview(poisoned)})
    stranger = InnerState(donor.layout, tensors_of(nn.Linear(2, 2)), [])
    with pytest.raises(InnerStateError, match="in no optimizer"):
        stranger.install(bodies)
    assert not optimizer.state


def changed(body: memoryview, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The body with another header."""
    (length,) = struct.unpack("<Q", body[:8])
    header = json.loads(bytes(body[8 : 8 + length]))
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body[8 + length :])


def first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header[next(name for name in header if name.startswith("exp_avg/"))]
    return entry


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update({"exp_avg/0/other": first(h)}),
        lambda h: h.update({"../etc/0/x": first(h)}),
        lambda h: first(h).update(shape=[1]),
        lambda h: first(h).update(dtype="I64"),
        lambda h: first(h).update(dtype="F8"),
        lambda h: first(h).update(data_offsets=[8, 0]),
        lambda h: first(h).update(data_offsets=[0, 1 << 60]),
        lambda h: first(h).update(more=1),
        lambda h: h.pop("__metadata__"),
        lambda h: h.update(__metadata__={"dtypes": "[]", "plain": "{}"}),
        lambda h: h.pop(next(name for name in h if name.startswith("exp_avg/"))),
    ],
    ids=range(11),
)
def test_a_header_that_does_not_belong_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    _, _, inner = island()
    body = lent(inner)[0]
    contents_of(inner.layout, 0, body)
    with pytest.raises(InnerStateError):
        contents_of(inner.layout, 0, changed(body, change))


@pytest.mark.parametrize("cut", [0, 7, 8, 30, -1])
def test_a_torn_body_is_refused(cut: int) -> None:
    _, _, inner = island()
    body = lent(inner)[0]
    with pytest.raises(InnerStateError):
        contents_of(inner.layout, 0, bytes(body[:cut]))
    with pytest.raises(InnerStateError):
        contents_of(inner.layout, 0, bytes(body) + b"x")


# ---------------------------------------------------------------- the checkpoint


def saved(path: Path, bodies: dict[int, memoryview], step: int = 7) -> None:
    file = InnerFile(path, OWNER)
    file.begin()
    for fragment in range(P):
        file.add(bodies[fragment])
    file.finish(step)


def test_a_checkpoint_comes_back_whole_and_the_newest_that_is_whole_counts(tmp_path: Path) -> None:
    _, _, inner = island()
    bodies, path = lent(inner), tmp_path / "deep" / "ann.inner"
    saved(path, bodies)
    begun = InnerFile(path, OWNER)
    begun.begin()
    begun.add(bodies[0])
    begun.close()  # killed while it wrote
    found = read_inner(path, OWNER, inner.layout)
    assert found.step == 7
    assert {i: bytes(b) for i, b in found.bodies.items()} == {
        i: bytes(b) for i, b in bodies.items()
    }


def test_a_full_disk_costs_a_checkpoint_and_leaves_nothing_behind(tmp_path: Path) -> None:
    _, _, inner = island()
    path = tmp_path / "ann.inner"
    new = path.with_name("ann.inner.new")
    checkpoints = Checkpoints(InnerFile(path, OWNER), P, 60.0)

    def write() -> str:
        for fragment in range(P):
            job = InnerJob(inner.plan(fragment), step=7)
            assert job.copy.take(None)
            said = checkpoints.write(job)
            if said:
                return said
        return ""

    new.symlink_to("/dev/full")
    said = write()
    assert "no checkpoint of inner state" in said and "No space left" in said
    assert not new.is_symlink() and not path.exists()
    assert write() == ""
    assert read_inner(path, OWNER, inner.layout).step == 7


def test_a_checkpoint_of_somebody_else_or_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    _, _, inner = island()
    path = tmp_path / "ann.inner"
    with pytest.raises(InnerStateError, match="there is no checkpoint"):
        read_inner(path, OWNER, inner.layout)
    saved(path, lent(inner))
    with pytest.raises(InnerStateError, match="of run 'reef', not 'atoll'"):
        read_inner(path, Owner("atoll", "ann", OWNER.layout, OWNER.kind), inner.layout)
    whole = path.read_bytes()
    for harm in (whole[:-9], whole[:40], b"", whole[:400] + b"x" + whole[401:], b"y" + whole[1:]):
        path.write_bytes(harm)
        with pytest.raises(InnerStateError):
            read_inner(path, OWNER, inner.layout)
    deep = b"[" * 60_000
    path.write_bytes(MAGIC + FRAME.pack(len(deep), crc32(deep)) + deep)
    with pytest.raises(InnerStateError, match="cannot be read"):
        read_inner(path, OWNER, inner.layout)


def test_state_that_the_optimizer_has_already_is_kept() -> None:
    _, _, inner = island()
    before = {i: bytes(body) for i, body in lent(inner).items()}
    restored = restore(inner, Circumstances(True, None, None, OWNER))
    assert restored.source == "kept"
    assert {i: bytes(body) for i, body in lent(inner).items()} == before
