"""`atoll syncer`: the lagoon of a run, from a run file, for learners elsewhere; or its standby."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from atoll.access.addresses import Address, is_loopback, parse_address
from atoll.core.settings import SettingsError
from atoll.launch.folder import RunFolder, invite_at
from atoll.launch.leases import with_leases_or_why
from atoll.runfile.settings import RunFile, read_run_file
from atoll.syncer.main import main as run_syncer
from atoll.syncer.standby import SILENCE_S

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
    standby: Annotated[
        bool,
        typer.Option("--standby", help="Wait on the same disk, and take over when it is gone."),
    ] = False,
    port: Annotated[
        int, typer.Option(help="Port to listen at; the run file's when not given.")
    ] = 0,
    takeover_after: Annotated[
        float, typer.Option(metavar="S", help="Seconds of silence until a standby takes over.")
    ] = SILENCE_S,
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON where it listens.")] = False,
) -> None:
    """Run the syncer of a run. The first time, begin the run and write its invite.

    Off the loopback everything is under TLS, with a certificate that only the invite trusts. Take
    `run.invite` to each island (it holds the run's secret), and start learners there.

    With --standby it waits while another syncer serves the run in the same folder, on a disk that
    both reach, and takes the run over when that one has stopped, or has shown no sign of life for
    a while. Learners find it when the run was begun with `standby` in [service]: it listens at
    that port. Whichever loses the run writes nothing that is read, and says who has it.
    """
    run, folder = read_run_file(run_file), RunFolder(directory)
    new = not folder.run_file.exists()
    if new and standby:
        raise SettingsError(
            f"no run has begun in {directory}: start its syncer first, without --standby"
        )
    if new:
        service = replace(run.syncer.service, port=port or run.syncer.service.port)
        run, why_not = with_leases_or_why(replace(run, syncer=replace(run.syncer, service=service)))
        if why_not:
            print(why_not, file=sys.stderr)
        _begin(folder, run, host or service.host, public)
    else:
        run = folder.resume(run)
    asked = ["--root", str(folder.state), "--secret-file", str(folder.secret)]
    asked += ["--settings", str(folder.syncer_settings), "--tapes", str(folder.tapes)]
    if folder.certificate.exists():
        asked += ["--tls-certificate", str(folder.certificate)]
        asked += ["--tls-key", str(folder.certificate_key)]
    asked += [] if as_json else ["--words"]
    if standby:
        port = port or _standby_port(run)
        asked += ["--standby", "--takeover-after", str(takeover_after)]
    if host and not new:
        asked += ["--host", host]
    asked += ["--port", str(port)] if port else []
    raise typer.Exit(run_syncer([*asked, "--new"] if new else asked))


def _standby_port(run: RunFile) -> int:
    """Of the address under which learners look for a standby."""
    service = run.syncer.service
    if not service.standby:
        raise SettingsError(
            'learners would not find this standby: begin the run with standby = "host:port" in '
            "[service], or give --port where their addresses lead here by other means"
        )
    return parse_address(service.standby).port


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
        addresses = [Address(public or host, service.port)]
        addresses += [parse_address(service.standby)] if service.standby else []
        has_tls = not all(is_loopback(each) for each in (host, *(a.host for a in addresses)))
        folder.admit(run.name, addresses, has_tls)
    folder.begin(replace(run, syncer=replace(run.syncer, service=service)))
    print(f"run {run.name!r} begins; its invite is {folder.invite}", file=sys.stderr)
