"""The run folder: everything of one run in one place.

run.toml        the settings, every default spelled out; running it again resumes
run.invite      what a learner needs to come in (mode 0600: it holds the secret)
state/          the syncer's durable state
tapes/          what every core saw and decided
learners/NAME/  metrics.jsonl of each learner
logs/           what the processes printed
report.json     how it went
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.access.addresses import Address
from atoll.access.invite import Invite, read_invite, write_invite
from atoll.access.private import write_private
from atoll.access.tokens import new_secret
from atoll.core.settings import SettingsError
from atoll.runfile.settings import RunFile, read_run_file, write_resolved
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

    def metrics(self, learner: str) -> Path:
        """Where a learner writes a line for each step."""
        return self.root / "learners" / learner / "metrics.jsonl"

    def log(self, name: str) -> Path:
        """What a process printed."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self, run_file: RunFile) -> tuple[RunFile, bool]:
        """Make the folder for this run. Returns the run to run, and whether it is a new one."""
        if self.run_file.exists():
            return self._resume(run_file), False
        if self.root.exists() and any(self.root.iterdir()):
            raise SettingsError(f"{self.root} holds something else: name another folder with --dir")
        for folder in (self.root / "keys", self.root / "logs", self.state, self.tapes):
            folder.mkdir(parents=True, exist_ok=True)
        run_file = _with_port(run_file)
        address = Address(LOOPBACK, run_file.syncer.service.port)
        invite = Invite(run_file.name, (address,), "", new_secret())
        write_invite(self.invite, invite)
        write_private(self.secret, invite.secret.reveal().encode())
        self.syncer_settings.write_text(json.dumps(settings_to(run_file.syncer)), encoding="utf-8")
        write_resolved(self.run_file, run_file)
        return run_file, True

    def _resume(self, asked: RunFile) -> RunFile:
        kept = read_run_file(self.run_file)
        if replace(asked.syncer, service=kept.syncer.service) != kept.syncer:
            raise SettingsError(
                f"{self.root} holds a run with other settings than the run file: run "
                f"{self.run_file} to go on with it, or name another folder with --dir"
            )
        return kept

    def address(self) -> Address:
        """Where the syncer of this run listens."""
        return read_invite(self.invite).addresses[0]


def _with_port(run_file: RunFile) -> RunFile:
    """A restarted syncer must be found where it was, so its port is chosen once."""
    if run_file.syncer.service.port:
        return run_file
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    service = replace(run_file.syncer.service, port=port)
    return replace(run_file, syncer=replace(run_file.syncer, service=service))
