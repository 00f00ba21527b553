"""Your own PyTorch loop as one island of a run: the lines with `learner` are all that Atoll needs.

atoll init reef --learners 2 --tokens 200000
atoll syncer reef/reef.toml --dir reef
python examples/own_loop.py --invite reef/run.invite --name site-a      # and again as site-b
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import atoll

BATCH_SIZE = 64


def main() -> None:
    asked = argparse.ArgumentParser(description="A small regression as one island of a run.")
    asked.add_argument("--invite", required=True, help="the invite that the syncer's side wrote")
    asked.add_argument("--name", required=True, help="this island's name, the same every time")
    options = asked.parse_args()

    model = nn.Sequential(nn.Linear(16, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh())
    model.append(nn.Linear(128, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    with atoll.join(model, optimizer, invite=options.invite, name=options.name) as learner:
        draw = torch.Generator().manual_seed(learner.data_seed)  # each island has data of its own
        on, step = True, 0
        while on:
            inputs = torch.randn(BATCH_SIZE, 16, generator=draw)
            loss = (model(inputs) - inputs.sin().sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on = learner.step(tokens=BATCH_SIZE, loss=loss)
            if step % 100 == 0 or not on:
                print(f"step {step}  loss {loss.item():.4f}  run {learner.progress:.0%}")
            step += 1


if __name__ == "__main__":
    main()
