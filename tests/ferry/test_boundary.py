"""What happens to real tensors at a boundary, and the mailbox between the two threads."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from atoll.core.ids import CutId
from atoll.ferry.errors import FerryDiedError
from atoll.ferry.island import Island
from atoll.ferry.mailbox import CutJob, InstallJob, Mailbox
from atoll.ferry.receipt import Received, as_held, receive_
from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.merge.chain import Published, first_version
from atoll.merge.codecs import Codec, decode, encode

SHAPES = {"first.weight": (33, 7), "first.bias": (33,), "second.weight": (5, 33)}


def random_tensors(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=dice).to(dtype) for n, s in SHAPES.items()}


def island(dtype: torch.dtype = torch.float32) -> Island:
    tensors = random_tensors(dtype)
    made = Island(Layout.from_tensors(tensors, 2), tensors)
    made.prepare()
    return made


def flat(numel: int, seed: int) -> Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


def numel_of(made: Island, fragment: int = 0) -> int:
    return made.layout.fragments[fragment].numel


def install(made: Island, version: Published, received: Received, fragment: int = 0) -> None:
    job = InstallJob(fragment, version, received)
    assert made.carry_out([job]).installs == (job,)


def train(made: Island, seed: int, size: float = 0.01) -> None:
    for place, tensor in enumerate(made.tensors.values()):
        dice = torch.Generator().manual_seed(100 * seed + place)
        tensor += (size * torch.randn(tensor.shape, generator=dice)).to(tensor.dtype)


def holding(made: Island, fragment: int = 0) -> Tensor:
    return gather(made.layout, fragment, made.tensors).clone()


# ---------------------------------------------------------------- receipt


def test_set_writes_published_into_the_same_storage() -> None:
    made = island()
    pointers = {n: t.data_ptr() for n, t in made.tensors.items()}
    other = holding(made, 1)
    version = first_version(flat(numel_of(made), 1))
    install(made, version, Received("set", version.values))
    assert torch.equal(holding(made), version.values)
    assert torch.equal(holding(made, 1), other), "other fragments are not touched"
    assert pointers == {n: t.data_ptr() for n, t in made.tensors.items()}


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int4"])
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keep_is_the_formula_bit_by_bit(codec: Codec, merged: bool, dtype: torch.dtype) -> None:
    made = island(dtype)
    n = numel_of(made)
    held = first_version(flat(n, 1))
    install(made, held, Received("set", held.values))
    base = holding(made)
    assert torch.equal(base, made.rounded(0, held.values)), "its own rounded base"
    train(made, 1)
    accepted = decode(codec, encode(codec, holding(made) - base), n)
    train(made, 2)
    now = holding(made)
    newer = first_version(held.values + 0.1 * flat(n, 2))
    install(made, newer, Received("keep", newer.values, base, accepted if merged else None))
    kept = (now - base) - accepted if merged else now - base
    expected = (newer.values + kept).to(dtype).to(torch.float32)
    assert torch.equal(holding(made), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keep_gives_exactly_published_when_nothing_was_done_since(dtype: torch.dtype) -> None:
    made = island(dtype)
    n = numel_of(made)
    held, newer = first_version(flat(n, 1)), first_version(flat(n, 2))
    install(made, held, Received("set", held.values))
    base = made.rounded(0, held.values)
    train(made, 1)
    accepted = decode("fp32", encode("fp32", holding(made) - base), n)
    install(made, newer, Received("keep", newer.values, base, accepted))
    assert torch.equal(holding(made), newer.values.to(dtype).to(torch.float32))


def test_alpha_mixes() -> None:
    theta, published = flat(9, 1), flat(9, 2)
    expected = theta * 0.25 + published * 0.75
    assert torch.equal(receive_(theta.clone(), Received("alpha", published, alpha=0.25)), expected)


def test_base_of_a_mixed_island_is_rounded_where_the_island_rounds() -> None:
    tensors = random_tensors()
    tensors["first.weight"] = tensors["first.weight"].to(torch.bfloat16)
    layout = Layout.from_tensors(tensors, 1)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    published = flat(layout.fragments[0].numel, 3)
    before = published.clone()
    base = as_held(layout, 0, published, dtypes)
    for piece in layout.fragments[0].pieces:
        here, there = base[piece.offset : piece.stop], published[piece.offset : piece.stop]
        rounded = there.to(dtypes[piece.name]).to(torch.float32)
        assert torch.equal(here, rounded)
    assert torch.equal(published, before)
    full = dict.fromkeys(dtypes, torch.float32)
    assert as_held(layout, 0, published, full) is published, "no copy where none is needed"


# ---------------------------------------------------------------- cuts


def test_bf16_cut_of_an_untrained_island_is_no_displacement() -> None:
    made = island(torch.bfloat16)
    version = first_version(flat(numel_of(made), 1))
    install(made, version, Received("set", version.values))
    done = made.carry_out([CutJob(0, CutId("ann", 1, 1))])
    (taken,) = done.cuts
    displacement = taken.staging.values() - made.rounded(0, version.values)
    assert torch.count_nonzero(displacement) == 0
    assert torch.count_nonzero(taken.staging.values() - version.values) > 0, "rounding is no work"


def test_cut_is_a_copy_that_later_steps_do_not_reach() -> None:
    made = island()
    made.held[0] = first_version(holding(made))
    (taken,) = made.carry_out([CutJob(0, CutId("ann", 1, 1))]).cuts
    at_cut = holding(made)
    train(made, 1)
    assert torch.equal(taken.staging.values(), at_cut)


def test_installs_come_before_cuts_of_the_same_fragment() -> None:
    made = island()
    version = first_version(flat(numel_of(made), 1))
    jobs = [CutJob(0, CutId("ann", 1, 1)), InstallJob(0, version, Received("set", version.values))]
    seen: list[tuple[int, bool]] = []
    made.watch = lambda fragment, done: seen.append((fragment, done))
    done = made.carry_out(jobs)
    assert seen == [(0, False), (0, True)]
    (taken,) = done.cuts
    assert taken.base is version
    assert torch.equal(taken.staging.values(), version.values)
    assert (len(done.installs), done.left) == (1, ())


class NotYet:
    """Stands for the mark of an upload to the device that is still under way."""

    def query(self) -> bool:
        return False


def test_install_that_is_not_on_the_device_waits_for_the_next_boundary() -> None:
    made = island()
    before = holding(made)
    version = first_version(flat(numel_of(made), 1))
    job = InstallJob(0, version, Received("set", version.values), NotYet())  # type: ignore[arg-type]
    cut = CutJob(0, CutId("ann", 1, 1))
    done = made.carry_out([cut, job])
    assert (done.installs, done.cuts, done.left) == ((), (), (job, cut)), "nor is it cut there"
    assert torch.equal(holding(made), before)


def test_staging_is_kept_and_used_again() -> None:
    made = island()
    made.held[0] = first_version(holding(made))
    pointers = []
    for number in range(3):
        (taken,) = made.carry_out([CutJob(0, CutId("ann", 1, number))]).cuts
        pointers.append(taken.staging.values().data_ptr())
        made.pool.give_back(taken.staging)
    assert len(set(pointers)) == 1


# ---------------------------------------------------------------- the mailbox


def cut_job(number: int = 1) -> CutJob:
    return CutJob(0, CutId("ann", 1, number))


def test_orders_come_in_order_and_once() -> None:
    mailbox = Mailbox()
    jobs = [cut_job(number) for number in (1, 2, 3)]
    for job in jobs:
        mailbox.order(job)
    jobs[1].withdrawn = True
    assert mailbox.take() == [jobs[0], jobs[2]]
    assert mailbox.take() == []


def test_mailbox_loses_nothing_between_two_threads() -> None:
    mailbox = Mailbox()
    num_jobs = 5000
    taken: list[int] = []

    def take() -> None:
        while len(taken) < num_jobs:
            taken.extend(job.id.number for job in mailbox.take())  # type: ignore[union-attr]

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(num_jobs):
        mailbox.order(cut_job(number))
    thread.join(20)
    assert taken == list(range(num_jobs))


def test_dead_ferry_is_raised_with_its_cause() -> None:
    mailbox = Mailbox()
    mailbox.check()
    mailbox.die(RuntimeError("the dog ate it"))
    with pytest.raises(FerryDiedError, match="RuntimeError: the dog ate it") as caught:
        mailbox.check()
    assert isinstance(caught.value.__cause__, RuntimeError)
