"""A loop with everything a loop tends to have, as one island of a run.

Gradient accumulation, clipping, a learning-rate schedule, a DataLoader with workers, evaluation and
checkpoints: all stay yours. What differs from training alone is marked with "atoll:".

atoll init shakespeare --learners 2 --tokens 2000000
atoll syncer shakespeare/shakespeare.toml --dir shakespeare
python examples/nanogpt_like.py --invite shakespeare/run.invite --name site-a --text input.txt
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import atoll

CONTEXT, WIDTH, LAYERS, HEADS = 64, 64, 2, 4
BATCH_SIZE, ACCUMULATE = 8, 2
LEARNING_RATE, CLIP, WARMUP = 3e-3, 1.0, 0.02
EVALUATE_EVERY = 200


class GPT(nn.Module):
    """A decoder over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats per byte."""
        length = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.tokens(inputs) + self.places(torch.arange(length))
        logits = self.head(self.layers(x, mask=mask, is_causal=True))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@dataclass
class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a text, each with itself one byte on."""

    text: Tensor

    def __len__(self) -> int:
        return (len(self.text) - 1) // CONTEXT

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.text[index * CONTEXT : (index + 1) * CONTEXT + 1].long()
        return window[:-1], window[1:]


def warmup_then_cosine(progress: float) -> float:
    """The learning rate's factor, by the share of the whole run that is trained."""
    if progress < WARMUP:
        return max(0.01, progress / WARMUP)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def forever(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the data after the other."""
    while True:
        yield from loader


@torch.no_grad()
def evaluate(model: GPT, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    model.eval()
    losses = [model(inputs, targets) for inputs, targets in islice(loader, 10)]
    model.train()
    return torch.stack(losses).mean().item()


def train(model: GPT, learner: atoll.learner.Learner, text: Tensor, num_workers: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    # atoll: a schedule by the run's progress, so who comes back finds it where the run is
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, atoll.lr_lambda(warmup_then_cosine))
    cut = int(0.9 * len(text))
    # atoll: an order of data of this island's own
    order = torch.Generator().manual_seed(learner.data_seed)
    loader = DataLoader(
        Windows(text[:cut]), BATCH_SIZE, shuffle=True, generator=order, num_workers=num_workers
    )
    held_out = DataLoader(Windows(text[cut:]), BATCH_SIZE)
    batches, step, on = forever(loader), 0, True
    while on:
        optimizer.zero_grad()
        losses, tokens = [], 0
        for inputs, targets in islice(batches, ACCUMULATE):
            loss = model(inputs, targets) / ACCUMULATE
            loss.backward()
            losses.append(loss.detach())
            tokens += inputs.numel()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        # atoll: once per optimizer step, after it, with the tokens of all its micro-batches
        on = learner.step(tokens=tokens, loss=torch.stack(losses).sum())
        step += 1
        if step % EVALUATE_EVERY == 0 or not on:
            with learner.busy("evaluation"):  # atoll: nobody waits for steps meanwhile
                loss_now = evaluate(model, held_out)
            print(f"step {step}  held-out loss {loss_now:.3f}  run {learner.progress:.0%}")


def main() -> None:
    asked = argparse.ArgumentParser(description="A small GPT over bytes as one island of a run.")
    asked.add_argument("--invite", required=True, help="the invite that the syncer's side wrote")
    asked.add_argument("--name", required=True, help="this island's name, the same every time")
    asked.add_argument("--text", type=Path, required=True, help="any file of text, 100 kB or more")
    asked.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    asked.add_argument("--save", type=Path, help="write the last parameters to this file")
    options = asked.parse_args()
    text = torch.frombuffer(bytearray(options.text.read_bytes()), dtype=torch.uint8)

    model = GPT()
    with atoll.join(model, invite=options.invite, name=options.name) as learner:
        train(model, learner, text, options.workers)
        if options.save:
            torch.save({"model": model.state_dict(), "atoll": learner.state_dict()}, options.save)


if __name__ == "__main__":
    main()
