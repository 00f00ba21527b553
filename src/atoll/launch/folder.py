"""The run folder: everything of one run in one place.

run.toml        the settings, every default spelled out; running it again resumes
run.invite      what a learner needs to come in (mode 0600: it holds the secret)
keys/           the secret, the certificates of a run that others reach, the syncer's settings
state/          the syncer's durable state
tapes/          what every core saw and decided
learners/NAME/  metrics.jsonl of each learner; its own invite, where its way in is another one
logs/           what the processes printed
report.json     how it went
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.access.addresses import Address, is_loopback, parse_address
from atoll.access.errors import AccessError
from atoll.access.invite import Invite, read_invite, write_invite
from atoll.access.private import write_private
from atoll.access.tls import issue_server, make_authority, write_credentials
from atoll.access.tokens import new_secret
from atoll.core.settings import SettingsError
from atoll.runfile.settings import RunFile, read_run_file, write_resolved
from atoll.store.text import append_line, write_whole
from atoll.syncer.settings import settings_to

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run. `prepare` makes the folder, or finds the run that is in it."""

    root: Path

    @property
    def run_file(self) -> Path:
        """The resolved settings."""
        return self.root / "run.toml"

    @property
    def invite(self) -> Path:
        """The invite for learners."""
        return self.root / "run.invite"

    @property
    def secret(self) -> Path:
        """The secret for the syncer."""
        return self.root / "keys" / "secret"

    @property
    def certificate(self) -> Path:
        """The syncer's certificate; there where the run is under TLS."""
        return self.root / "keys" / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """The certificate's key."""
        return self.root / "keys" / "server.key"

    @property
    def syncer_settings(self) -> Path:
        """The syncer's part of the settings."""
        return self.root / "keys" / "syncer.json"

    @property
    def state(self) -> Path:
        """The syncer's durable state."""
        return self.root / "state"

    @property
    def tapes(self) -> Path:
        """One tape for each party."""
        return self.root / "tapes"

    @property
    def report(self) -> Path:
        """The last report."""
        return self.root / "report.json"

    @property
    def sessions(self) -> Path:
        """Wall time of each session: a run that is interrupted goes on in another one."""
        return self.root / "sessions.jsonl"

    def add_seconds(self, seconds: float) -> None:
        """A session is over."""
        append_line(self.sessions, json.dumps({"seconds": round(seconds, 2)}))

    def seconds(self) -> float:
        """Wall time of all sessions that could be written down; torn lines count for nothing."""
        result = 0.0
        with suppress(FileNotFoundError):
            for line in self.sessions.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    result += float(json.loads(line)["seconds"])
        return result

    def metrics(self, learner: str) -> Path:
        """Where a learner writes a line for each step."""
        return self.root / "learners" / learner / "metrics.jsonl"

    def own_invite(self, learner: str) -> Path:
        """The invite of one learner, where there is one: the same run by another way."""
        return self.root / "learners" / learner / "run.invite"

    def invite_for(self, learner: str) -> Path:
        """What a learner comes in with."""
        own = self.own_invite(learner)
        return own if own.exists() else self.invite

    def log(self, name: str) -> Path:
        """What a process printed."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self, run_file: RunFile) -> tuple[RunFile, bool]:
        """Make the folder for this run. Returns the run to run, and whether it is a new one."""
        if self.run_file.exists():
            return self.resume(run_file), False
        if self.root.exists() and any(self.root.iterdir()):
            raise SettingsError(f"{self.root} holds something else: name another folder with --dir")
        run_file = _on_this_machine(run_file)
        service = run_file.syncer.service
        standby = [parse_address(service.standby)] if service.standby else []
        addresses = [Address(LOOPBACK, service.port), *standby]
        self.admit(run_file.name, addresses, has_tls=False)
        self.begin(run_file)
        return run_file, True

    def admit(self, run: str, addresses: Sequence[Address], has_tls: bool) -> Invite:
        """Make what learners come in with: the secret, the certificates, the invite.

        The addresses are those under which learners reach the syncer, then a standby; the
        certificate covers them all. Nothing is overwritten.
        """
        keys = self.root / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        ca_pem = ""
        if has_tls:
            authority = make_authority(run)
            server = issue_server(authority, list(dict.fromkeys(each.host for each in addresses)))
            write_credentials(authority, keys / "authority.pem", keys / "authority.key")
            write_credentials(server, self.certificate, self.certificate_key)
            ca_pem = authority.certificate_pem
        invite = Invite(run, tuple(addresses), ca_pem, new_secret())
        write_private(self.secret, invite.secret.reveal().encode())
        write_invite(self.invite, invite)
        return invite

    def begin(self, run_file: RunFile) -> None:
        """Write down what a new run follows; from here on it does not change."""
        for folder in (self.root / "logs", self.state, self.tapes):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.syncer_settings, json.dumps(settings_to(run_file.syncer)))
        write_resolved(self.run_file, run_file)

    def resume(self, asked: RunFile) -> RunFile:
        """The run that is here; `SettingsError` where the run file asks for another one.

        What the syncer's process may take and keeps is as the run file says now, and so is who gets
        figures; where it listens is not, for learners were told. How data is leased was worked out
        when the run began.
        """
        kept = read_run_file(self.run_file)
        wanted = replace(_with_data_of(asked, kept).syncer, service=kept.syncer.service)
        if wanted != kept.syncer:
            raise SettingsError(
                f"{self.root} holds a run with other settings than the run file: run "
                f"{self.run_file} to go on with it, or name another folder with --dir"
            )
        return self._with_changes(kept, asked)

    def _with_changes(self, kept: RunFile, asked: RunFile) -> RunFile:
        old = kept.syncer.service
        told = {"host": old.host, "port": old.port, "standby": old.standby}
        service = replace(asked.syncer.service, **told)  # type: ignore[arg-type]
        syncer = replace(kept.syncer, service=service)
        changed = replace(kept, syncer=syncer, observe=asked.observe)
        if changed != kept:
            self.begin(changed)
        return changed

    def address(self) -> Address:
        """Where the syncer of this run listens."""
        return read_invite(self.invite).addresses[0]


def invite_at(path: Path) -> Invite:
    """The invite that is this file, or lies in this run folder."""
    file = RunFolder(path).invite if path.is_dir() else path
    if not file.exists():
        raise SettingsError(
            f"there is no invite {file}: name the file run.invite, or the folder of a run that "
            "`atoll init`, `atoll syncer` or `atoll train` has made"
        )
    try:
        return read_invite(file)
    except AccessError as error:
        raise SettingsError(str(error)) from error


def _with_data_of(asked: RunFile, kept: RunFile) -> RunFile:
    """A run file that does not say how data is leased leaves it as it is."""
    run, old = asked.syncer.run, kept.syncer.run
    if run.dataset_items or run.num_streams:
        return asked
    lease_items = run.lease_items or old.lease_items
    run = replace(run, dataset_items=old.dataset_items, lease_items=lease_items)
    return replace(asked, syncer=replace(asked.syncer, run=run))


def _on_this_machine(run_file: RunFile) -> RunFile:
    """Nobody else reaches it. A restarted syncer must be found, so its port is chosen once."""
    service = replace(run_file.syncer.service, host=LOOPBACK)
    if service.standby and not is_loopback(parse_address(service.standby).host):
        service = replace(service, standby="")
    if not service.port:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            service = replace(service, port=probe.getsockname()[1])
    return replace(run_file, syncer=replace(run_file.syncer, service=service))
