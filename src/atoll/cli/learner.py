"""`atoll learner`: the reference trainer as one island of a run."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from atoll.learner import IslandOptions, join
from atoll.runfile.settings import read_run_file
from atoll.train.island import train_on_island
from atoll.train.model import build_model
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer

LEAVE_S = 25.0
"""Clouds and clusters give 30 seconds or more."""


def learner(
    run_file: Annotated[Path, typer.Argument(help="The run file, for what to train.")],
    invite: Annotated[Path, typer.Option(help="The invite that the syncer's side wrote.")],
    name: Annotated[
        str, typer.Option(help="This island's name, the same after a restart; else the host's.")
    ] = "",
    metrics: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON for each step; the optimizer's state beside it."),
    ] = None,
    tapes: Annotated[Path | None, typer.Option(help="Record this learner's tape here.")] = None,
    watch_stdin: Annotated[
        bool, typer.Option("--watch-stdin", help="Stop when standard input ends.")
    ] = False,
    leave_s: Annotated[
        float, typer.Option(metavar="S", help="Seconds to hand in after SIGTERM, exit included.")
    ] = LEAVE_S,
    max_alone: Annotated[
        float,
        typer.Option(
            metavar="S", help="End when the syncer was not reached for so long; 0: never."
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each step.")] = False,
) -> None:
    """Train as one island of a run, until the run is over.

    Joins the run that the invite names, trains the run file's model on its data, and says with the
    syncer's own words why work was not merged. SIGTERM (a spot machine's notice) and Ctrl-C finish
    the step, hand in the last contribution and the lease within --leave-s, and end with exit code
    0; a second one ends it at once. An island that was alone for --max-alone seconds ends with
    exit code 1, so that whatever started it can start it anew.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    if watch_stdin:
        _stop_with_parent()
    run = read_run_file(run_file)
    torch.set_num_threads(run.local.threads)
    model = build_model(run.train.model, run.train.seed).to(run.train.device)
    optimizer = build_optimizer(model, run.train.optimizer)
    sources = load_sources(run.train.data, run.train.model.context, run.train.model.vocab_size)
    out = _Lines(metrics, as_json)
    leave_on = (signal.SIGTERM, signal.SIGINT)
    checkpoint = metrics.with_suffix(".inner") if metrics is not None else None
    options = IslandOptions(
        tapes=tapes,
        checkpoint=checkpoint,
        leave_s=leave_s,
        leave_on=leave_on,
        max_alone_s=max_alone,
    )
    with join(model, optimizer, invite=invite, name=name, options=options) as me, out:
        out.write({"event": "joined", "incarnation": me.incarnation, "data": me.data_seed})
        out.write({"event": "restored", **asdict(me.restored)})
        records = train_on_island(
            run.train, me, model, optimizer, sources.train, run.local.min_step_s
        )
        for record in records:
            out.write(asdict(record))
            if record.step % 50 == 0 and not as_json:
                print(
                    f"step {record.step}  loss {record.loss:.3f}  run {record.progress:.0%}",
                    file=sys.stderr,
                )
    if me.is_alone:
        print(f"this island has ended: {me.why_over}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"this island has left: {me.farewell or 'the syncer was not told'}", file=sys.stderr)


class _Lines:
    """Where the lines of metrics go."""

    def __init__(self, path: Path | None, as_json: bool):
        self._as_json = as_json
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, record: dict[str, object]) -> None:
        line = json.dumps(record)
        if self._file is not None:
            self._file.write(line + "\n")
        if self._as_json:
            print(line, flush=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _stop_with_parent() -> None:
    """The parent holds the other end of our standard input: when it dies, so do we."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="atoll-parent", daemon=True).start()
