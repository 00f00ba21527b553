"""`atoll syncer`: the lagoon of a run, from a run file, for learners elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from atoll.access.addresses import Address, is_loopback
from atoll.core.settings import SettingsError
from atoll.launch.folder import RunFolder, invite_at
from atoll.runfile.settings import RunFile, read_run_file
from atoll.syncer.main import main as run_syncer

EVERYWHERE = ("0.0.0.0", "::")


def syncer(
    run_file: Annotated[Path, typer.Argument(help="The run file.")],
    directory: Annotated[Path, typer.Option("--dir", help="Run folder: state, keys and invite.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; the run file's when not given.")
    ] = "",
    public: Annotated[
        str, typer.Option(help="Name or address under which learners reach it.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON where it listens.")] = False,
) -> None:
    """Run the syncer of a run. The first time, begin the run and write its invite.

    Off the loopback everything is under TLS, with a certificate that only the invite trusts. Take
    `run.invite` to each island (it holds the run's secret), and start learners there.
    """
    run, folder = read_run_file(run_file), RunFolder(directory)
    new = not folder.run_file.exists()
    if new:
        _begin(folder, run, host or run.syncer.service.host, public)
    else:
        folder.resume(run)
    asked = ["--root", str(folder.state), "--secret-file", str(folder.secret)]
    asked += ["--settings", str(folder.syncer_settings), "--tapes", str(folder.tapes)]
    if folder.certificate.exists():
        asked += ["--tls-certificate", str(folder.certificate)]
        asked += ["--tls-key", str(folder.certificate_key)]
    asked += [] if as_json else ["--words"]
    raise typer.Exit(run_syncer([*asked, "--new"] if new else asked))


def _begin(folder: RunFolder, run: RunFile, host: str, public: str) -> None:
    """Begin the run that `atoll init` has prepared here, or one with an invite made now."""
    service = replace(run.syncer.service, host=host)
    if not service.port:
        raise SettingsError(
            "service.port = 0: name a port in the run file, so that learners find it"
        )
    if folder.invite.exists():
        invite = invite_at(folder.invite)
        if invite.run != run.name:
            raise SettingsError(
                f"{folder.invite} is to run {invite.run!r}, the run file's is {run.name!r}: set "
                f'run = "{invite.run}" there, or name another folder with --dir'
            )
    else:
        if host in EVERYWHERE and not public:
            raise SettingsError(
                "--public is missing: name the address under which learners reach it"
            )
        has_tls = not is_loopback(host)
        folder.admit(run.name, Address(public or host, service.port), has_tls)
    folder.begin(replace(run, syncer=replace(run.syncer, service=service)))
    print(f"run {run.name!r} begins; its invite is {folder.invite}", file=sys.stderr)
