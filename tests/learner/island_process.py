"""A learner as a process: trains a tiny model until a file says stop, and writes what it holds.

Arguments: invite, name, stop file, record file.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import torch
from torch import nn

import atoll
from atoll.merge.chain import digest_of


def main() -> None:
    invite, name, stop, record = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    torch.manual_seed(hash(name) % 1000)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    held: dict[int, int] = {}
    with (
        atoll.join(model, optimizer, invite=invite, name=name) as learner,
        record.open("a", buffering=1) as out,
    ):
        print(json.dumps({"joined": name, "incarnation": learner.incarnation}), file=out)
        while not stop.exists():
            inputs = torch.randn(8, 16)
            loss = (model(inputs) - inputs[:, :4]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not learner.step(tokens=8, loss=loss.detach()):
                break
            for fragment, published in list(learner._ferry._held.items()):
                if held.get(fragment) != published.version:
                    held[fragment] = published.version
                    line = [fragment, published.version, digest_of(published.values)]
                    print(json.dumps(line), file=out)
            time.sleep(0.01)  # the pace of a step
    print(json.dumps({"left": name}), file=record.open("a"))


if __name__ == "__main__":
    main()
