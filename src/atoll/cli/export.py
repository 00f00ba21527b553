"""`atoll export`: a run's published parameters as a folder that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.output import print_json
from atoll.launch.export import write_model
from atoll.launch.folder import RunFolder, invite_at
from atoll.launch.parameters import newest
from atoll.launch.status import fetch_status
from atoll.launch.whole import refuse_taken
from atoll.runfile.settings import read_run_file


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or an invite.")],
    out: Annotated[Path, typer.Option(help="A new folder to write.")],
    run_file: Annotated[
        Path | None, typer.Option(help="With an invite: the run file, for the model's shape.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Write the published parameters as safetensors, in a folder that transformers loads.

    From the syncer where it answers, and otherwise from the run folder's state; a run that is
    under way is not disturbed. The parameters of a model of your own, and those of an invite
    without a run file, are written without a config.json.
    """
    refuse_taken(out, "--out")
    folder, invite = RunFolder(run), invite_at(run)
    shape = run_file or (folder.run_file if folder.run_file.exists() else None)
    chosen = read_run_file(shape) if shape is not None else None
    parameters = newest(run, folder, invite, is_served=bool(fetch_status(invite)))
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
