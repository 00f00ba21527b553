"""`atoll init`: everything that a new run over several places begins with, in one folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from atoll.access.addresses import Address, as_ip_or_name, is_loopback, parse_address
from atoll.access.errors import AccessError
from atoll.cli.output import print_json
from atoll.core.settings import SettingsError
from atoll.launch.folder import RunFolder
from atoll.launch.whole import whole_folder
from atoll.runfile.settings import read_run_file
from atoll.runfile.template import Choices, run_file_text
from atoll.store.runs import checked_name

PORT = 7420


def init(
    directory: Annotated[Path, typer.Argument(help="A new folder; its name is the run's.")],
    address: Annotated[
        str, typer.Option(help="HOST[:PORT] under which learners reach the syncer.")
    ] = f"127.0.0.1:{PORT}",
    learners: Annotated[int, typer.Option(help="Learners expected to take part.")] = 2,
    preset: Annotated[str, typer.Option(help="Size of the model: tiny, micro or small.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Tokens to train; 0: what suits the preset.")] = 0,
    standby: Annotated[
        str, typer.Option(help="HOST[:PORT] of a second syncer that takes over from the first.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Make a run file, certificates and an invite for a run over several places.

    Nothing is started, and nothing is ever overwritten. Ends with the commands to type next.
    """
    name = _checked_run(directory)
    public = _parse(address, "--address")
    addresses = [public, *([_parse(standby, "--standby")] if standby else [])]
    second = str(addresses[1]) if standby else ""
    choices = Choices(name, public.port, _host(public), learners, preset, tokens, second)
    with whole_folder(directory, "`atoll init OTHER_FOLDER`") as beside:
        run_file = beside / f"{name}.toml"
        run_file.write_text(run_file_text(choices), encoding="utf-8")
        read_run_file(run_file)
        folder = RunFolder(beside)
        try:
            folder.admit(name, addresses, has_tls=not all(is_loopback(a.host) for a in addresses))
        except AccessError as error:
            raise SettingsError(str(error)) from error
    _tell(directory, name, addresses, as_json)


def _checked_run(directory: Path) -> str:
    name = directory.resolve().name
    try:
        return checked_name(name)
    except ValueError as error:
        raise SettingsError(f"the folder's name is the run's name, and {error}") from None


def _parse(text: str, option: str) -> Address:
    """With our own port where none is given."""
    try:
        if ":" not in text or (text.count(":") > 1 and not text.startswith("[")):
            as_ip_or_name(text)
            return Address(text, PORT)
        return parse_address(text)
    except AccessError as error:
        raise SettingsError(f"{option}: {error}") from error


def _host(public: Address) -> str:
    """Where to listen: on this machine alone, or wherever the address leads to."""
    if is_loopback(public.host):
        return public.host
    return "::" if ":" in public.host else "0.0.0.0"


def _tell(directory: Path, name: str, addresses: list[Address], as_json: bool) -> None:
    public, *standby = addresses
    here, run_file = str(directory), str(directory / f"{name}.toml")
    invite = str(RunFolder(directory).invite)
    commands = {
        "syncer": ["atoll", "syncer", run_file, "--dir", here],
        "learner": ["atoll", "learner", run_file, "--invite", invite, "--name", "site-a"],
        "watch": ["atoll", "watch", here],
        "export": ["atoll", "export", here, "--out", f"{here}-model"],
        "train": ["atoll", "train", run_file, "--dir", f"{here}-here"],
    }
    if standby:
        commands["standby"] = [*commands["syncer"], "--standby"]
    lines = {what: shlex.join(words) for what, words in commands.items()}
    if as_json:
        document = {"command": "init", "run": name, "run_file": run_file, "invite": invite}
        has_tls = not all(is_loopback(address.host) for address in addresses)
        print_json({**document, "address": str(public), "tls": has_tls, "next": lines})
        return
    print(f"run {name!r} is prepared in {here}")
    print(f"  {run_file}  what is trained, and how: read it and change it before you start")
    print(f"  {invite}  for the learners; it holds the run's secret, so keep it at mode 0600")
    print(f"\nStart the syncer, where {public} leads to:\n\n  {lines['syncer']}")
    if standby:
        print(f"\nand a standby on the same disk, where {standby[0]} leads to:")
        print(f"\n  {lines['standby']}")
    print("\nTake run file and invite to each place and start a learner, each under its own name:")
    print(f"\n  {lines['learner']}")
    print(f"\nWatch it, and take the model out:\n\n  {lines['watch']}\n  {lines['export']}")
    print(f"\nOr try it first with everything on this machine:\n\n  {lines['train']}")
