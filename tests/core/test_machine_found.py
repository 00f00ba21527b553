"""What random walks over joined cores have found, each as the shortest walk that shows it."""

from __future__ import annotations

from atoll.core import events as ev
from atoll.core.coordinator import RunSettings
from atoll.core.settings import ProtocolSettings
from core.joined import Joined


def world_of(protocol: ProtocolSettings, num_steps: int = 12) -> Joined:
    world = Joined(protocol, RunSettings("run", "layout", 10**12))
    for index in range(protocol.M):
        world.join(f"island-{index}")
    for _ in range(num_steps):
        world.honest_step()
    return world


def test_a_call_that_met_an_empty_cut_is_answered_at_the_next_boundary() -> None:
    """An install that gives up all work comes first, so the cut at this boundary is empty.

    The call counted as answered, and the round stood open, unanswered, until its deadline.
    """
    protocol = ProtocolSettings(M=1, P=1, H=1, receipt="overwrite", unmerged="drop", look_ahead=0)
    world = world_of(protocol)
    key = next(iter(world.processes))
    core = world.processes[key].core
    holding = core.state.holdings[0]
    assert holding.install is not None and holding.install.rule == "set"
    assert holding.cut is not None
    call, step, tokens = holding.cut.call, core.state.step, core.state.position
    core.handle(world.now_s, ev.Boundary(step + 1, tokens + 100, 1.0, (0,), (0,)))
    assert holding.ledger.outstanding == [], "nothing was left to cut"
    assert holding.cut is not None and holding.cut.call == call, "the call still waits"
    core.handle(world.now_s, ev.Boundary(step + 2, tokens + 200, 1.0, (0,), ()))
    assert [cut.call for cut in holding.ledger.outstanding] == [call]


def test_a_cut_that_was_dropped_is_not_merged_when_its_bytes_come_again() -> None:
    """The first upload was spoiled, its answer lost; the second was under way when it was told."""
    world = world_of(ProtocolSettings(M=2, P=2, H=4, K=2, beat_s=1.0), 12)
    shard = world.parties["shard-0"].core
    for _ in range(20):
        for key in list(world.processes):
            world.boundary(key, 100, lambda _: True)
        if world.transfers:
            break
        world.honest_step()
    index = next(n for n, each in enumerate(world.transfers) if hasattr(each.order, "cut"))
    cut = world.transfers[index].order.cut
    world.move(index, "bad")
    assert cut.id.number == shard.state.seats[cut.id.learner].dropped[cut.fragment]
    effects = shard.handle(world.now_s, ev.Arrived(cut))
    assert [e.reason.code for e in effects] == ["dropped", "dropped"], "discarded, and told again"
    fragment = shard.state.fragments[cut.fragment]
    assert cut.id.learner not in fragment.fallback
    assert fragment.round is None or cut.id.learner not in fragment.round.arrived
