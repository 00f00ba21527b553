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
from typing import Annotated, TextIO

import torch
import typer

from atoll.learner import IslandOptions, Learner, join
from atoll.observe.lines import Lines
from atoll.runfile.settings import RunFile, read_run_file
from atoll.store.orders import jump_on_orders
from atoll.train.island import train_on_island
from atoll.train.model import build_model
from atoll.train.sources import load_sources
from atoll.train.step import build_optimizer

log = logging.getLogger("atoll.learner")

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
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Keep the optimizer's state here, on a local disk; else by --metrics."),
    ] = None,
    max_up_mbit_s: Annotated[
        float, typer.Option(metavar="MBIT", min=0.0, help="Send at most so much; 0: no cap.")
    ] = 0.0,
    proxy: Annotated[
        str, typer.Option(metavar="URL", help="Go through the proxy http://HOST:PORT.")
    ] = "",
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
    chaos_dir: Annotated[Path | None, typer.Option(hidden=True)] = None,
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
    if chaos_dir is not None:
        jump_on_orders(chaos_dir, name)
    if checkpoint is None and metrics is not None:
        checkpoint = metrics.with_suffix(".inner")
    options = IslandOptions(
        proxy=proxy,
        max_up_mbit_s=max_up_mbit_s,
        tapes=tapes,
        checkpoint=checkpoint,
        leave_s=leave_s,
        leave_on=(signal.SIGTERM, signal.SIGINT),
        max_alone_s=max_alone,
    )
    run = read_run_file(run_file)
    me = _take_part(run, (invite, name), options, _Lines(metrics, as_json))
    if me.is_alone:
        _print(f"this island has ended: {me.why_over}", sys.stderr)
        raise typer.Exit(1)
    _print(f"this island has left: {me.farewell or 'the syncer was not told'}", sys.stderr)


def _take_part(run: RunFile, who: tuple[Path, str], options: IslandOptions, out: _Lines) -> Learner:
    """Train until the run is over, or this island is told to leave; `who` is invite and name."""
    torch.set_num_threads(run.local.threads)
    model = build_model(run.train.model, run.train.seed).to(run.train.device)
    optimizer = build_optimizer(model, run.train.optimizer)
    sources = load_sources(run.train.data, run.train.model.context, run.train.model.vocab_size)
    invite, name = who
    with join(model, optimizer, invite=invite, name=name, options=options) as me:
        out.write({"event": "joined", "incarnation": me.incarnation, "data": me.data_seed})
        out.write({"event": "restored", **asdict(me.restored)})
        records = train_on_island(
            run.train, me, model, optimizer, sources.train, run.local.min_step_s
        )
        for record in records:
            out.write(asdict(record))
            if record.step % 50 == 0 and not out.as_json:
                said = f"step {record.step}  loss {record.loss:.3f}  run {record.progress:.0%}"
                _print(said, sys.stderr)
    return me


class _Lines:
    """Where the lines of metrics go; a full disk costs lines, not the training."""

    def __init__(self, path: Path | None, as_json: bool):
        self.as_json = as_json
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = Lines(path)

    def write(self, record: dict[str, object]) -> None:
        if self._file is not None:
            self._file.add(record)
        if self.as_json:
            _print(json.dumps(record), sys.stdout)


def _print(text: str, out: TextIO) -> None:
    """To a pipe, a screen or a file; only a reader that has gone is a reason to end."""
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        log.debug("a line was not printed: %s", error)


def _stop_with_parent() -> None:
    """The parent holds the other end of our standard input: when it dies, so do we."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="atoll-parent", daemon=True).start()
