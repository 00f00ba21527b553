"""`join` and `step` against a scripted lagoon: what a training loop sees."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import atoll
from atoll.access.invite import write_invite
from atoll.core import messages as msg
from atoll.core.ids import Mark
from atoll.core.settings import ProtocolSettings
from atoll.fragments import Layout
from atoll.fragments.access import gather
from atoll.fragments.model import tensors_of
from atoll.learner import FerryDiedError, JoinError, Learner, LearnerOverError
from atoll.learner.errors import InstallUndoneError
from atoll.learner.joining import IslandOptions
from atoll.merge.chain import Chain, first_version, publish
from atoll.merge.codecs import decode
from ferry.lagoon import Lagoon, Rule, greet

SETTINGS = ProtocolSettings(
    M=1, P=2, H=4, tau=1, receipt="keep", beat_s=0.2, silence_s=1.0, retry_s=0.05
)
LIMIT_S = 20.0
SOON = IslandOptions(join_s=LIMIT_S)


def tiny(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))


def flats(model: nn.Module) -> list[torch.Tensor]:
    layout = Layout.from_module(model, SETTINGS.P)
    tensors = tensors_of(model)
    return [gather(layout, fragment, tensors).clone() for fragment in range(SETTINGS.P)]


@pytest.fixture
def lagoon() -> Iterator[Lagoon]:
    made = Lagoon(SETTINGS)
    made.on_message = greet
    made.chains = {f: Chain(first_version(flat)) for f, flat in enumerate(flats(tiny(1)))}
    yield made
    made.close()


@pytest.fixture
def joined(lagoon: Lagoon) -> Iterator[tuple[Lagoon, nn.Module, Learner]]:
    model = tiny(0)
    learner = atoll.join(model, invite=lagoon.invite, name="ann", options=SOON)
    yield lagoon, model, learner
    learner.close(0.0)


def train(model: nn.Module, size: float = 0.001) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape)


def steps_until(learner: Learner, until: Callable[[], bool], model: nn.Module | None = None) -> int:
    """Train until something holds; a deadline in place of a count of steps."""
    deadline_s = time.monotonic() + LIMIT_S
    num_steps = 0
    while not until():
        assert time.monotonic() < deadline_s, "what was waited for never came"
        if model is not None:
            train(model)
        learner.step(tokens=10)
        num_steps += 1
        time.sleep(0.002)
    return num_steps


def call(lagoon: Lagoon, fragment: int, number: int) -> None:
    lagoon.say(msg.Call(1, fragment, number, 1), "shard-0")


def merge(lagoon: Lagoon, place: str) -> None:
    """Publish base + displacement, as a syncer with one learner might."""
    said = lagoon.commits[place]["cut"]
    fragment = said["fragment"]
    chain = lagoon.chains[fragment]
    body = bytearray(lagoon.body_of(place))
    theta = chain.published.values + decode("fp32", body, chain.published.values.numel())
    published, increment = publish(chain.published, theta, lagoon.downlink)
    chain.append(published, increment)
    mark = Mark("ann", 1, said["id"]["number"], published.version)
    lagoon.say(msg.Published(1, fragment, published.version, published.digest, (mark,)), "shard-0")


# ---------------------------------------------------------------- joining


def test_join_installs_every_fragment(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, model, learner = joined
    for fragment, flat in enumerate(flats(model)):
        assert torch.equal(flat, lagoon.chains[fragment].published.values)
    assert learner.restored.source == "first"
    assert learner.incarnation == 1
    assert lagoon.layout == Layout.from_module(model, SETTINGS.P).to_dict()


def test_invite_by_path(lagoon: Lagoon, tmp_path: Path) -> None:
    write_invite(tmp_path / "run.invite", lagoon.invite)
    with atoll.join(tiny(), invite=tmp_path / "run.invite", name="bob") as learner:
        assert learner.step(tokens=1)


def test_another_model_is_refused_with_both_fingerprints(lagoon: Lagoon) -> None:
    theirs = Layout.from_module(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)), SETTINGS.P)
    lagoon.layout = theirs.to_dict()
    mine = Layout.from_module(tiny(), SETTINGS.P)
    with pytest.raises(JoinError) as caught:
        atoll.join(tiny(), invite=lagoon.invite, options=SOON)
    text = str(caught.value)
    assert theirs.fingerprint() in text
    assert mine.fingerprint() in text
    assert "1.weight has shape (4, 8) here and (5, 8) there" in text


def test_nobody_there_is_said_with_address_and_reason(lagoon: Lagoon) -> None:
    lagoon.close()
    with pytest.raises(JoinError, match=rf"{lagoon.address}.*refused"):
        atoll.join(tiny(), invite=lagoon.invite, options=IslandOptions(join_s=0.3))


def test_uninvited_is_said_at_once(lagoon: Lagoon) -> None:
    lagoon.rules.append(Rule("GET", "settings", 401, "uninvited"))
    with pytest.raises(JoinError, match="scripted uninvited"):
        atoll.join(tiny(), invite=lagoon.invite, options=SOON)


def test_rejected_for_good_is_said_in_the_syncers_words(lagoon: Lagoon) -> None:
    def reject(_: Lagoon, message: object) -> None:
        if isinstance(message, msg.Hello):
            lagoon.say(msg.Rejected(1, "ann", "full", "no berth is free", True, message.process))

    lagoon.on_message = reject
    with pytest.raises(JoinError, match="no berth is free"):
        atoll.join(tiny(), invite=lagoon.invite, name="ann", options=SOON)


def test_version_0_that_never_comes_ends_at_the_deadline(lagoon: Lagoon) -> None:
    lagoon.chains = {}
    with pytest.raises(JoinError, match="version 0 of every fragment was not there"):
        atoll.join(tiny(), invite=lagoon.invite, options=IslandOptions(join_s=0.5))


def test_initialiser_sends_version_0_as_it_is(lagoon: Lagoon) -> None:
    model = tiny(5)
    mine = flats(model)
    lagoon.chains = {}

    def script(_: Lagoon, message: object) -> None:
        if isinstance(message, msg.Hello):
            lagoon.say(msg.Welcome(1, "ann", 1, False, 1, False, message.process))
            lagoon.say(msg.Initialise(1, 30.0))
        if isinstance(message, msg.InitialOffered):
            for fragment in range(SETTINGS.P):
                body = bytearray(lagoon.body_of(f"initial/{fragment}"))
                version = first_version(torch.frombuffer(body, dtype=torch.float32))
                lagoon.chains[fragment] = Chain(version)
                lagoon.say(msg.Published(1, fragment, 0, version.digest, ()), "shard-0")
            lagoon.say(msg.Begin(1))

    lagoon.on_message = script
    with atoll.join(model, invite=lagoon.invite, name="ann", options=SOON):
        for fragment, flat in enumerate(mine):
            assert torch.equal(lagoon.chains[fragment].published.values, flat)


def test_island_of_many_processes_is_refused(
    lagoon: Lagoon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    with pytest.raises(JoinError, match="one of 8"):
        atoll.join(tiny(), invite=lagoon.invite)


# ---------------------------------------------------------------- merging


def test_called_fragment_is_cut_sent_merged_and_installed(
    joined: tuple[Lagoon, nn.Module, Learner],
) -> None:
    lagoon, model, learner = joined
    lagoon.on_commit = merge
    call(lagoon, 0, 1)
    steps_until(learner, lambda: len(lagoon.commits) == 1, model)
    steps_until(learner, lambda: learner._ferry.core.state.holdings[0].base == 1)
    assert torch.allclose(flats(model)[0], lagoon.chains[0].published.values, atol=0.05)
    cut = lagoon.commits["contributions/ann.1.1/0"]["cut"]
    assert cut["tokens"] if "tokens" in cut else cut["end_token"] - cut["first_token"] > 0
    steps_until(
        learner, lambda: any(isinstance(m, msg.Beat) and m.held == (1, 0) for m in lagoon.heard)
    )


def test_refused_cut_is_said_in_the_syncers_words(
    joined: tuple[Lagoon, nn.Module, Learner], caplog: pytest.LogCaptureFixture
) -> None:
    lagoon, model, learner = joined
    lagoon.rules.append(Rule("POST", "commit", 410, "closed"))
    with caplog.at_level("WARNING", "atoll.learner"):
        call(lagoon, 0, 1)
        steps_until(learner, lambda: "scripted closed" in caplog.text, model)
    assert "ann.1.1 was not merged" in caplog.text


def test_learner_reconnects_and_goes_on(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, model, learner = joined
    num_hellos = len([m for m in lagoon.heard if isinstance(m, msg.Hello)])
    lagoon.cut_all()
    steps_until(
        learner,
        lambda: len([m for m in lagoon.heard if isinstance(m, msg.Hello)]) > num_hellos,
    )
    hello = [m for m in lagoon.heard if isinstance(m, msg.Hello)][-1]
    assert hello.incarnation == 1, "it asks to resume"
    lagoon.on_commit = merge
    steps_until(learner, lambda: learner._ferry.core.state.links.get("shard-0", False))
    call(lagoon, 1, 1)
    steps_until(learner, lambda: learner._ferry.core.state.holdings[1].base == 1, model)


def test_normal_exit_hands_in_the_last_contribution(lagoon: Lagoon) -> None:
    model = tiny()
    with atoll.join(model, invite=lagoon.invite, name="ann", options=SOON) as learner:
        for _ in range(3):
            train(model)
            learner.step(tokens=10)
        last = flats(model)
    for fragment in range(SETTINGS.P):
        (place,) = [p for p in lagoon.commits if p.endswith(f"/{fragment}")]
        assert lagoon.commits[place]["cut"]["end_token"] == 30
        base = lagoon.chains[fragment].published.values
        sent = decode("fp32", bytearray(lagoon.body_of(place)), base.numel())
        assert torch.equal(sent, last[fragment] - base)
    assert isinstance(lagoon.heard[-1], msg.Leave)


def test_exception_leaves_at_once(lagoon: Lagoon) -> None:
    model = tiny()

    def loop() -> None:
        with atoll.join(model, invite=lagoon.invite, name="ann", options=SOON) as learner:
            train(model)
            learner.step(tokens=10)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        loop()
    lagoon.wait(lambda: any(isinstance(m, msg.Leave) for m in lagoon.heard))
    assert lagoon.commits == {}


# ---------------------------------------------------------------- never waiting


class NoSockets:
    """Raises when the given thread touches a socket or takes a nap."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[str] = []
        self.thread = threading.current_thread()
        for name in ("connect", "sendall", "send", "recv", "recv_into", "shutdown"):
            self._watch(monkeypatch, socket.socket, name)
        self._watch(monkeypatch, threading.Event, "wait")
        self._watch(monkeypatch, threading.Condition, "wait")
        self._watch(monkeypatch, threading.Thread, "join")

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            if threading.current_thread() is self.thread:
                self.calls.append(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)


def test_step_waits_for_nothing_while_the_syncer_stands_still(
    joined: tuple[Lagoon, nn.Module, Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    lagoon, model, learner = joined
    call(lagoon, 0, 1)
    steps_until(learner, lambda: learner._ferry.core.state.holdings[0].last_call == 1, model)
    lagoon.open.clear()  # every thread of the syncer stops in the middle of what it does
    with monkeypatch.context() as patch:
        watched = NoSockets(patch)
        for _ in range(50):
            train(model)
            assert learner.step(tokens=10)
        assert watched.calls == []
    assert learner._counters.step >= 50
    lagoon.open.set()


def test_step_waits_for_nothing_while_the_syncer_is_gone(
    joined: tuple[Lagoon, nn.Module, Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    lagoon, model, learner = joined
    lagoon.close()
    with monkeypatch.context() as patch:
        watched = NoSockets(patch)
        for _ in range(50):
            train(model)
            assert learner.step(tokens=10)
        assert watched.calls == []


def test_dead_ferry_is_raised_at_the_next_step(
    joined: tuple[Lagoon, nn.Module, Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, learner = joined

    def handle(now_s: float, event: object) -> object:
        raise RuntimeError("boom")

    monkeypatch.setattr(learner._ferry.core, "handle", handle)
    learner.step(tokens=1)
    learner._ferry.join(LIMIT_S)
    with pytest.raises(FerryDiedError, match="boom") as caught:
        learner.step(tokens=1)
    assert isinstance(caught.value.__cause__, RuntimeError)


# ---------------------------------------------------------------- the end, and others


def test_end_of_the_run_is_said_by_step(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, _, learner = joined
    lagoon.say(msg.Ended(1, "the budget is trained"))
    learner._ferry.join(LIMIT_S)
    assert learner.step(tokens=1) is False


def test_replaced_learner_is_told(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, _, learner = joined
    lagoon.say(msg.Replaced(1, 2))
    learner._ferry.join(LIMIT_S)
    with pytest.raises(LearnerOverError, match="newer process"):
        learner.step(tokens=1)


def test_progress_is_monotone_and_capped(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, _, learner = joined
    factor = atoll.lr_lambda(lambda progress: 1 - progress)
    assert factor(99) == 1.0
    lagoon.say(msg.Progress(1, 500, 0, 1000))
    steps_until(learner, lambda: learner.progress >= 0.5)
    before = learner.progress
    learner.step(tokens=100)
    assert learner.progress == pytest.approx(min(1.0, before + 0.1))
    assert factor(0) == pytest.approx(1 - learner.progress)
    learner.step(tokens=10_000)
    assert learner.progress == 1.0


def test_busy_is_said(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    lagoon, _, learner = joined
    with learner.busy("evaluation"):
        lagoon.wait(
            lambda: any(isinstance(m, msg.Beat) and m.busy == "evaluation" for m in lagoon.heard)
        )


def test_skipped_steps_count_nothing(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    _, _, learner = joined
    learner.step(tokens=10, applied=False)
    assert learner.state_dict()["tokens"] == 0
    learner.step(tokens=torch.tensor(10), loss=torch.tensor(2.5))
    assert learner.state_dict()["tokens"] == 10
    assert learner.loss == 2.5


def test_data_seed_differs_between_lives(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    _, _, learner = joined
    first = learner.data_seed
    learner._mailbox.incarnation = 2
    assert learner.data_seed != first


def test_optimizer_with_masters_is_found_out(lagoon: Lagoon) -> None:
    model = tiny(0)
    masters = [p.detach().clone() for p in model.parameters()]
    learner = atoll.join(model, invite=lagoon.invite, name="ann", options=SOON)
    with torch.no_grad():
        for parameter, master in zip(model.parameters(), masters, strict=True):
            parameter.copy_(master - 0.001)
    with pytest.raises(InstallUndoneError, match="keeps copies of the parameters"):
        learner.step(tokens=1)
    learner.close(0.0)


def test_honest_optimizer_is_not_blamed(lagoon: Lagoon) -> None:
    model = tiny(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with atoll.join(model, optimizer, invite=lagoon.invite, options=SOON) as learner:
        for _ in range(3):
            model(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
            learner.step(tokens=1)
        assert learner._check.decided


def test_forked_child_keeps_no_socket(joined: tuple[Lagoon, nn.Module, Learner]) -> None:
    _, _, learner = joined
    connection = learner._ferry.link._connection
    assert connection is not None
    number = connection.socket.fileno()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.fstat(number)
            os.write(writer, b"open")
        except OSError:
            os.write(writer, b"shut")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"shut"
    os.close(reader)
    os.close(writer)
    assert learner.step(tokens=1)
    os.fstat(number)


def test_link_options_reach_the_ferry(lagoon: Lagoon) -> None:
    options = IslandOptions(max_up_mbit_s=80.0, leave_s=1.0)
    with atoll.join(tiny(), invite=lagoon.invite, options=options) as learner:
        assert learner._ferry.transfers._pace.bytes_per_s == 1e7
