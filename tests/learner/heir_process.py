"""A learner as a process that says whose inner state it began with, and what that is.

Arguments: invite, name, stop file, record file, options as JSON (`pace_s` and those of an island).
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

import atoll
from atoll.ferry.inner import InnerState
from atoll.fragments import Layout
from atoll.fragments.model import tensors_of
from atoll.learner.joining import IslandOptions


def main() -> None:
    invite, name, stop, record = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    options = json.loads(sys.argv[5])
    pace_s = options.pop("pace_s", 0.01)
    if "checkpoint" in options:
        options["checkpoint"] = Path(options["checkpoint"])
    logging.basicConfig(level=logging.DEBUG)
    torch.set_num_threads(1)
    torch.manual_seed(len(name))
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with (
        atoll.join(
            model, optimizer, invite=invite, name=name, options=IslandOptions(**options)
        ) as learner,
        record.open("a", buffering=1) as out,
    ):
        came = {"joined": name, "warmup": learner.warmup, "restored": asdict(learner.restored)}
        print(json.dumps(came | {"inner": inner_digests(model, optimizer)}), file=out)
        while not stop.exists():
            inputs = torch.randn(8, 16)
            loss = (model(inputs) - inputs).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not learner.step(tokens=8, loss=loss.detach()):
                break
            print(json.dumps({"warmup": learner.warmup}), file=out)
            time.sleep(pace_s)
    print(json.dumps({"left": name}), file=record.open("a"))


def inner_digests(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """What the optimizer holds, fragment by fragment, as it would be lent."""
    layout = Layout.from_module(model, 3)
    inner = InnerState(layout, tensors_of(model), [optimizer])
    digests = []
    for fragment in range(3):
        copy = inner.plan(fragment)
        assert copy.take(None)
        digests.append(hashlib.sha256(copy.body()).hexdigest())
    return digests


if __name__ == "__main__":
    main()
