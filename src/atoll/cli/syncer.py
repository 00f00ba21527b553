"""`atoll syncer`: the lagoon of a run, from a run file, for learners elsewhere."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from atoll.access.addresses import Address, is_loopback
from atoll.access.invite import Invite, write_invite
from atoll.access.private import write_private
from atoll.access.tls import issue_server, make_authority, write_credentials
from atoll.access.tokens import new_secret
from atoll.core.settings import SettingsError
from atoll.runfile.settings import RunFile, read_run_file, write_resolved
from atoll.syncer.main import main as run_syncer
from atoll.syncer.settings import settings_to


def syncer(
    run_file: Annotated[Path, typer.Argument(help="The run file.")],
    directory: Annotated[Path, typer.Option("--dir", help="Run folder: state, keys and invite.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    public: Annotated[
        str, typer.Option(help="Name or address under which learners reach it.")
    ] = "",
) -> None:
    """Run the syncer of a run. The first time, begin the run and write its invite.

    Off the loopback everything is under TLS, with a certificate that only the invite trusts. Take
    `run.invite` to each island (it holds the run's secret), and start learners there.
    """
    run = read_run_file(run_file)
    new = not (directory / "run.toml").exists()
    if new:
        begin(directory, run, host, public or host)
    asked = ["--root", str(directory / "state"), "--secret-file", str(directory / "keys/secret")]
    asked += [
        "--settings",
        str(directory / "keys/syncer.json"),
        "--tapes",
        str(directory / "tapes"),
    ]
    if (directory / "keys/server.pem").exists():
        asked += ["--tls-certificate", str(directory / "keys/server.pem")]
        asked += ["--tls-key", str(directory / "keys/server.key")]
    raise typer.Exit(run_syncer([*asked, "--new"] if new else asked))


def begin(directory: Path, run: RunFile, host: str, public: str) -> None:
    """Make the folder of a run that others will reach: keys, invite, settings."""
    if not run.syncer.service.port:
        raise SettingsError(
            "service.port = 0: name a port in the run file, so that learners find it"
        )
    if host in ("0.0.0.0", "::") and public == host:
        raise SettingsError("--public is missing: name the address under which learners reach it")
    for folder in ("keys", "state", "tapes"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    ca_pem = "" if is_loopback(host) else _make_keys(directory / "keys", run.name, public)
    service = replace(run.syncer.service, host=host)
    run = replace(run, syncer=replace(run.syncer, service=service))
    invite = Invite(run.name, (Address(public, service.port),), ca_pem, new_secret())
    write_invite(directory / "run.invite", invite)
    write_private(directory / "keys/secret", invite.secret.reveal().encode())
    settings = json.dumps(settings_to(run.syncer))
    (directory / "keys/syncer.json").write_text(settings, encoding="utf-8")
    write_resolved(directory / "run.toml", run)
    print(f"run {run.name!r} begins; its invite is {directory / 'run.invite'}", file=sys.stderr)


def _make_keys(keys: Path, run: str, public: str) -> str:
    authority = make_authority(run)
    server = issue_server(authority, [public])
    write_credentials(authority, keys / "authority.pem", keys / "authority.key")
    write_credentials(server, keys / "server.pem", keys / "server.key")
    return authority.certificate_pem
