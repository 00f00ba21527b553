"""One replica of torchft's DiLoCo over Gloo, with our reference model; a torchrun starts it.

Runs in an environment that has torchft. Writes a line of JSON for each step: when it began and
ended, and after a synchronisation how many replicas took part.

    torchrun ... _torchft_replica.py RUN_FILE REPLICA LINES_FILE
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import init_process_group
from torchft.local_sgd import DiLoCo  # type: ignore[import-not-found]
from torchft.manager import Manager  # type: ignore[import-not-found]
from torchft.process_group import ProcessGroupGloo  # type: ignore[import-not-found]

from atoll.core.order import EpochOrder
from atoll.runfile.settings import RunFile, read_run_file
from atoll.train.data import load_batch
from atoll.train.model import build_model
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer, train_step

LIMIT = timedelta(seconds=60)
"""torchft's own default for every wait."""


def train(run: RunFile, replica: int, out: Any) -> None:
    """Until somebody ends the process."""
    torch.set_num_threads(1)
    model = build_model(run.train.model, run.train.seed)
    inner = build_optimizer(model, run.train.optimizer)
    settings = run.syncer.merge.outer
    outer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, nesterov=True
    )
    train_part = load_sources(run.train.data, run.train.model.context, 256).train
    order = EpochOrder(len(train_part), replica)

    def state_dict() -> dict[str, Any]:
        return {"model": model.state_dict(), "inner": inner.state_dict()}

    def load_state_dict(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["inner"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=LIMIT),
        load_state_dict=load_state_dict,
        state_dict=state_dict,
        min_replica_size=1,
        use_async_quorum=False,
        replica_id=f"replica-{replica}",
        timeout=LIMIT,
        quorum_timeout=LIMIT,
        connect_timeout=LIMIT,
    )
    step = 0
    with DiLoCo(manager, [model], inner, outer, sync_every=run.syncer.protocol.H):
        while True:
            began_s = time.monotonic()
            places = range(step * run.train.batch_size, (step + 1) * run.train.batch_size)
            train_step(model, inner, load_batch(train_part, map(order.at, places)), run.train.step)
            time.sleep(max(0.0, began_s + run.local.min_step_s - time.monotonic()))
            step += 1
            line = {"step": step, "began_s": began_s, "ended_s": time.monotonic()}
            line |= {"synced": manager.current_step(), "replicas": manager.num_participants()}
            out.write(json.dumps(line) + "\n")


def main() -> None:
    run, replica = read_run_file(Path(sys.argv[1])), int(sys.argv[2])
    init_process_group("gloo")
    with Path(sys.argv[3]).open("a", encoding="utf-8", buffering=1) as out:
        train(run, replica, out)


if __name__ == "__main__":
    main()
