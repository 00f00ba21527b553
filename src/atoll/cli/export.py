"""`atoll export`: a run's published parameters as a folder that others can load."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atoll.cli.output import page, print_json
from atoll.core.settings import SettingsError
from atoll.launch.export import write_model
from atoll.launch.folder import RunFolder, invite_at
from atoll.launch.parameters import Kept, Parameters, from_snapshot, newest, snapshots_of
from atoll.launch.status import fetch_status
from atoll.launch.whole import refuse_taken
from atoll.runfile.settings import read_run_file


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or an invite.")],
    out: Annotated[Path | None, typer.Option(help="A new folder to write.")] = None,
    run_file: Annotated[
        Path | None, typer.Option(help="With an invite: the run file, for the model's shape.")
    ] = None,
    snapshot: Annotated[
        int | None, typer.Option(help="A snapshot's number, for the parameters of its moment.")
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Write nothing: name the snapshots that are kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Write the published parameters as safetensors, in a folder that transformers loads.

    From the syncer where it answers, and otherwise from the run folder's state; a run that is
    under way is not disturbed. The parameters of a model of your own, and those of an invite
    without a run file, are written without a config.json.
    """
    if only_list:
        _show(run, snapshots_of(RunFolder(run)), as_json)
        return
    if out is None:
        raise SettingsError("--out is missing: name a new folder to write to, or ask for --list")
    refuse_taken(out, "--out")
    folder = RunFolder(run)
    shape = run_file or (folder.run_file if folder.run_file.exists() else None)
    chosen = read_run_file(shape) if shape is not None else None
    parameters = _parameters(run, snapshot)
    is_loadable = write_model(out, parameters, chosen)
    count = sum(tensor.numel() for tensor in parameters.tensors.values())
    if as_json:
        document = {"command": "export", "run": parameters.run, "out": str(out)}
        document["source"] = parameters.source
        figures = {"parameters": count, "versions": list(parameters.versions)}
        print_json({**document, **figures, "transformers": is_loadable})
        return
    print(f"{out}: {count:,} parameters of run {parameters.run!r}, read from the ", end="")
    print(f"{parameters.source}, versions {min(parameters.versions)} to {max(parameters.versions)}")
    if is_loadable:
        print(
            "  transformers loads it: AutoModelForCausalLM.from_pretrained(...), see its README.md"
        )
    else:
        why = "this is not the run file's model" if chosen else "give --run-file RUN.toml for one"
        print(f"  model.safetensors only, without a config.json: {why}")


def _parameters(run: Path, snapshot: int | None) -> Parameters:
    if snapshot is not None:
        return from_snapshot(RunFolder(run), snapshot)
    invite = invite_at(run)
    return newest(run, RunFolder(run), invite, is_served=bool(fetch_status(invite)))


def _show(run: Path, kept: list[Kept], as_json: bool) -> None:
    if as_json:
        print_json({"command": "export", "snapshots": [asdict(each) for each in kept]})
        return
    if not kept:
        print(f"{run} keeps no snapshot yet: the log has everything, export it without --snapshot")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("snapshot", "tokens", "size", "written", "why it stays"):
        right = heading in ("snapshot", "tokens", "size")
        table.add_column(heading, justify="right" if right else "left")
    for each in kept:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.written_s))
        size = f"{each.num_bytes / 1e6:.1f} MB"
        table.add_row(str(each.number), f"{each.tokens:,}", size, when, each.why)
    page().print(table)
