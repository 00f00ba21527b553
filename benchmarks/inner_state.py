"""Inner optimizer state after a restart: what it is worth, and what it costs to have a peer's.

`worth`: the reference model is trained by two learners that average their parameters every H steps.
Right after such an average one of them restarts, on the same data from there on, with its own inner
state (as if nothing had happened), its peer's, and a fresh one, with the learning rate warmed up
again over N steps or not. Losses are held-out, after every step.

`cost`: a syncer and two learners on the loopback, square layers of `--params` parameters under
AdamW. One learner comes in under way: how long its `join` takes with and without a peer's state.
Beside it, what a copy of a fragment costs a donor's boundary, in plain copies of as many bytes.

    python benchmarks/inner_state.py [worth | cost] [--params 10000000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import machine, processor, write_results
from torch import nn

import atoll
from atoll.access.addresses import Address
from atoll.access.invite import Invite, write_invite
from atoll.access.tokens import new_secret
from atoll.core.coordinator_state import RunSettings
from atoll.core.order import EpochOrder
from atoll.core.settings import ProtocolSettings
from atoll.ferry.inner import InnerState
from atoll.ferry.mailbox import InnerJob
from atoll.ferry.staging import Staging
from atoll.fragments import Layout
from atoll.fragments.model import tensors_of
from atoll.learner.joining import IslandOptions
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import PENDING_LAYOUT, SyncerSettings
from atoll.train.data import load_batch
from atoll.train.model import build_model
from atoll.train.settings import TrainSettings
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer, evaluate, train_step

H = 24
ROUNDS = 8
AFTER = 48
REWARMS = (10, 20, 40)
FRAGMENTS = 24
STEP_S = 0.02


# ---------------------------------------------------------------- worth


def worth(num_seeds: int) -> dict[str, Any]:
    """Held-out losses after a restart, by whose inner state it goes on with; means over seeds."""
    settings = TrainSettings()
    sources = load_sources(settings.data, settings.model.context, settings.model.vocab_size)
    curves: dict[str, list[list[float]]] = {}
    for seed in range(num_seeds):
        for name, curve in _one_seed(settings, sources, seed).items():
            curves.setdefault(name, []).append(curve)
    before = [each[0] for each in curves["own"]]
    rows = {}
    for name, found in curves.items():
        own = curves["own"]
        extra = [
            [x - y for x, y in zip(a, b, strict=True)] for a, b in zip(found, own, strict=True)
        ]
        mean = [sum(column) / len(column) for column in zip(*extra, strict=True)]
        rise = [max(a) - a[0] for a in found]
        rows[name] = {
            "rise_of_loss_nats": sum(rise) / len(rise),
            "worst_beside_own_nats": max(mean),
            "mean_beside_own_first_24_nats": sum(mean[1:25]) / 24,
            "at_the_end_beside_own_nats": mean[-1],
        }
    return {"seeds": num_seeds, "loss_at_restart": sum(before) / len(before), "rows": rows}


def _one_seed(settings: TrainSettings, sources: Any, seed: int) -> dict[str, list[float]]:
    order = EpochOrder(len(sources.train), seed)
    models = [build_model(settings.model, seed) for _ in range(2)]
    optimizers = [build_optimizer(model, settings.optimizer) for model in models]
    place = 0
    for _ in range(ROUNDS):
        for _ in range(H):
            for model, optimizer in zip(models, optimizers, strict=True):
                place = _train(settings, sources, order, (model, optimizer), place)
        with torch.no_grad():
            for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
                mean = (a + b) / 2
                a.copy_(mean)
                b.copy_(mean)
    states = {"own": optimizers[0], "peer": optimizers[1], "fresh": None}
    found = {}
    for name in ("own", "peer", "fresh", *(f"fresh, {n} steps of warm-up" for n in REWARMS)):
        num_warm = int(name.split()[1]) if "," in name else 0
        state = states[name.split(",")[0]]
        found[name] = _restart(settings, sources, order, (models[0], state, num_warm), place)
    return found


def _restart(
    settings: TrainSettings, sources: Any, order: EpochOrder, how: tuple[Any, Any, int], place: int
) -> list[float]:
    before, state, num_warm = how
    model = copy.deepcopy(before)
    optimizer = build_optimizer(model, settings.optimizer)
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state.state_dict()))
    losses = [_held_out(settings, sources, model)]
    for step in range(AFTER):
        factor = min(1.0, (step + 1) / num_warm) if num_warm else 1.0
        for group in optimizer.param_groups:
            group["lr"] = settings.optimizer.learning_rate * factor
        place = _train(settings, sources, order, (model, optimizer), place)
        losses.append(_held_out(settings, sources, model))
    return losses


def _train(
    settings: TrainSettings, sources: Any, order: EpochOrder, who: tuple[Any, Any], place: int
) -> int:
    indices = [order.at(place + offset) for offset in range(settings.batch_size)]
    train_step(*who, load_batch(sources.train, indices), settings.step)
    return place + settings.batch_size


def _held_out(settings: TrainSettings, sources: Any, model: nn.Module) -> float:
    return evaluate(model, sources.held_out, 2, settings.batch_size, settings.step)


# ---------------------------------------------------------------- cost


def model_of(num_params: int) -> nn.Module:
    """Square layers, together about so many parameters."""
    width = max(16, round((num_params / 12) ** 0.5))
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(12)])


def cost(num_params: int) -> dict[str, Any]:
    """How long a learner that comes in waits, and what a copy takes from a donor's boundary."""
    with tempfile.TemporaryDirectory() as home:
        found = _restore(Path(home), num_params)
    return {"params": num_params, "fragments": FRAGMENTS, **found, "boundary": boundary(num_params)}


def _restore(home: Path, num_params: int) -> dict[str, Any]:
    secret = new_secret()
    protocol = ProtocolSettings(M=2, P=FRAGMENTS, H=FRAGMENTS, K=1, beat_s=0.5, silence_s=5.0)
    run = RunSettings("reef", PENDING_LAYOUT, 10**12)
    with_service = SyncerService(
        SyncerSettings(run, protocol), SyncerOptions(home / "runs", secret, new=True)
    )
    address = with_service.start()
    write_invite(home / "invite", Invite("reef", (Address("127.0.0.1", address.port),), "", secret))
    donor = _child(home, "donor", num_params, 30.0)
    try:
        _wait(lambda: _lines(donor.stdout, 60 + 2 * FRAGMENTS))
        heirs = {}
        for name, restore_s in (("with", 60.0), ("without", 0.0), ("with_again", 60.0)):
            heir = _child(home, f"heir-{name}", num_params, restore_s)
            assert heir.stdout is not None
            heirs[name] = json.loads(heir.stdout.readline())
            heir.kill()
            heir.wait()
            heir.stdout.close()
    finally:
        donor.kill()
        donor.wait()
        with_service.stop()
    steps = [json.loads(each) for each in (home / "donor.steps").read_text().splitlines()[60:]]
    lending = sorted(each["boundary_s"] for each in steps if each["lent"])
    others = sorted(each["boundary_s"] for each in steps if not each["lent"])
    return {
        "join": heirs,
        "donor_boundary_lending_ms": 1e3 * lending[len(lending) // 2],
        "donor_boundary_else_ms": 1e3 * others[len(others) // 2],
        "donor_boundaries_lending": len(lending),
    }


def _lines(stream: Any, number: int) -> bool:
    for _ in range(number):
        stream.readline()
    return True


def _wait(done: Any) -> None:
    assert done()


def _child(home: Path, name: str, num_params: int, restore_s: float) -> Any:
    words = [sys.executable, __file__, "learner", "--params", str(num_params), "--home", str(home)]
    words += ["--name", name, "--restore-s", str(restore_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def learner(home: Path, name: str, num_params: int, restore_s: float) -> None:
    """One island: joins, says what came of it, and steps until it is killed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = model_of(num_params)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    began_s = time.monotonic()
    options = IslandOptions(restore_s=restore_s)
    me = atoll.join(model, optimizer, invite=home / "invite", name=name, options=options)
    took_s = time.monotonic() - began_s
    line = {"join_s": took_s, "source": me.restored.source, "sentence": me.restored.sentence}
    print(json.dumps(line | {"num_tensors": me.restored.num_tensors}), flush=True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    with (home / f"{name}.steps").open("a", buffering=1) as out:
        while True:
            optimizer.step()
            time.sleep(STEP_S)
            jobs = list(me._mailbox.jobs)  # noqa: SLF001  # no user needs to see them
            lends = any(isinstance(job, InnerJob) for job in jobs)
            before_s = time.perf_counter()
            me.step(tokens=1000)
            record = {"boundary_s": time.perf_counter() - before_s, "lent": lends}
            print(json.dumps(record), file=out)
            if name == "donor":
                print(flush=True)


def boundary(num_params: int) -> dict[str, Any]:
    """A fragment's inner state and a cut of it, beside a plain copy of as many bytes."""
    torch.set_num_threads(1)
    model = model_of(num_params)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    layout, tensors = Layout.from_module(model, FRAGMENTS), tensors_of(model)
    inner = InnerState(layout, tensors, [optimizer])
    staging = Staging(max(each.numel for each in layout.fragments), torch.device("cpu"))
    copies = [inner.plan(0) for _ in range(20)]
    num_bytes = copies[0].body().nbytes
    source, target = torch.ones(num_bytes // 4), torch.empty(num_bytes // 4)
    times: dict[str, list[float]] = {"inner_state": [], "cut": [], "plain_copy": []}
    for each in copies:
        for name, action in (
            ("inner_state", lambda copied=each: copied.take(None)),
            ("cut", lambda: staging.copy(layout, 0, tensors, None)),
            ("plain_copy", lambda: target.copy_(source)),
        ):
            start_s = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start_s)
    median = {name: sorted(found)[len(found) // 2] for name, found in times.items()}
    return {
        "bytes": num_bytes,
        **{f"{name}_ms": 1e3 * value for name, value in median.items()},
        "inner_state_in_plain_copies": median["inner_state"] / median["plain_copy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", default="all", choices=("all", "worth", "cost", "learner")
    )
    parser.add_argument("--params", type=int, default=10_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--name", default="")
    parser.add_argument("--restore-s", type=float, default=0.0)
    asked = parser.parse_args()
    if asked.what == "learner":
        learner(asked.home, asked.name, asked.params, asked.restore_s)
        return
    if asked.what in ("all", "cost"):
        found = cost(asked.params)
        print(json.dumps(found, indent=2))
        write_results("inner_state_cost", processor(), {"machine": machine(), **found})
    if asked.what in ("all", "worth"):
        torch.set_num_threads(1)
        found = worth(asked.seeds)
        print(json.dumps(found, indent=2))
        write_results("inner_state_worth", processor(), {"machine": machine(), **found})


if __name__ == "__main__":
    main()
