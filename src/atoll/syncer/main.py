"""The syncer as a process: `python -m atoll.syncer --root DIR --settings FILE --secret-file FILE`.

Prints one line of JSON on standard output when it listens, and nothing else there; with `--standby`
also one for whatever it waits for. SIGTERM, SIGINT and, with `--watch-stdin`, the end of standard
input stop it in order. The edge of the process: errors become words and exit codes here.

    0  stopped as asked, or the run has ended     1  it could not go on
    2  a mistake of the user's, with the fix      3  fenced: another process owns the run now

A standby that is fenced does not end: it waits for its turn again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import ssl
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atoll.access.addresses import refuse_plain_listener
from atoll.access.errors import AccessError
from atoll.access.private import read_private
from atoll.access.tls import server_context
from atoll.access.tokens import Secret
from atoll.core.settings import SettingsError
from atoll.store.errors import DiskFailed, DiskFull, Fenced, RunExists, RunNotFound, StoreError
from atoll.store.orders import DiskOnOrders, jump_on_orders
from atoll.syncer.errors import SyncerError
from atoll.syncer.front import listen
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import SyncerSettings, read_settings
from atoll.syncer.standby import LOOK_S, OVER, SILENCE_S, TRY, WAIT, OwnerWatch, Turn

STOPPED, FAILED, MISTAKE, FENCED = 0, 1, 2, 3

log = logging.getLogger("atoll.syncer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a syncer until it is told to stop."""
    asked = _parser().parse_args(argv)
    logging.basicConfig(
        level=asked.log_level.upper(),
        stream=sys.stderr,
        format="%(levelname)s %(name)s %(message)s",
    )
    stop = _Stop()
    _take_descriptors()
    try:
        settings, options = _settings(asked), _options(asked)
        stop.on_signals()
        process = _Process(asked, settings, options, stop)
        return process.stand_by() if asked.standby else process.serve(options)
    except RunNotFound as error:
        return _mistake(f"{error}\nWith --new this syncer begins it.")
    except (SettingsError, SyncerError, AccessError, RunExists) as error:
        return _mistake(str(error))
    except Fenced as error:
        print(error, file=sys.stderr)
        return FENCED
    except (StoreError, OSError, ValueError) as error:
        log.error("the syncer cannot start: %s", error)
        return FAILED


class _Process:
    """One process: it serves, or waits for its turn and then serves."""

    def __init__(
        self,
        asked: argparse.Namespace,
        settings: SyncerSettings,
        options: SyncerOptions,
        stop: _Stop,
    ) -> None:
        self._asked = asked
        self._settings = settings
        self._options = options
        self._stop = stop
        self._said = ""

    def serve(self, options: SyncerOptions) -> int:
        """From the start of the service to its end; errors of the start are raised."""
        asked = self._asked
        service = SyncerService(self._settings, options)
        self._stop.what_runs(service)
        service.start()
        if asked.watch_stdin:
            self._stop.on_end_of_stdin()
        if asked.exit_when_ended:
            self._stop.on_end_of_run(service, asked.linger_s)
        self._say_ready(service)
        service.wait()
        service.stop()
        if isinstance(service.error, Fenced):
            return FENCED
        return STOPPED if service.error is None else FAILED

    def stand_by(self) -> int:
        """Wait for the owner's end, take the run over, and wait again whenever it is lost."""
        asked, run = self._asked, self._settings.run.run
        self._check_address()
        if asked.watch_stdin:
            self._stop.on_end_of_stdin()
        watch = OwnerWatch(asked.root, run, asked.takeover_after)
        while not self._stop.asked.is_set():
            turn = watch.look()
            self._say(turn)
            if turn.do == OVER:
                return STOPPED
            if turn.do == TRY and (code := self._take_over(turn)) != FENCED:
                return code
            self._stop.asked.wait(LOOK_S)
        return STOPPED

    def _take_over(self, turn: Turn) -> int:
        """FENCED where the run is somebody else's, before or after: wait again."""
        try:
            code = self.serve(replace(self._options, after_epoch=turn.epoch))
        except (Fenced, DiskFull, DiskFailed) as error:
            log.warning("%s", error)
            code = FENCED
        if code == FENCED:
            print("this standby waits for its turn again", file=sys.stderr)
        return code

    def _check_address(self) -> None:
        """What a takeover would find out too late."""
        service = self._settings.service
        if self._options.tls is None:
            refuse_plain_listener(service.host)
        try:
            listen(service.host, service.port).close()
        except OSError as error:
            raise SyncerError(
                f"cannot listen at {service.host} port {service.port}: {error}; a standby listens "
                "at an address of its own, which the invite names beside the first one"
            ) from error

    def _say(self, turn: Turn) -> None:
        """Once for each thing that is waited for or done."""
        if turn.why == self._said:
            return
        self._said = turn.why
        if not self._asked.words:
            event = {WAIT: "standby", TRY: "takeover", OVER: "ended"}[turn.do]
            line = {"event": event, "run": self._settings.run.run, "why": turn.why}
            print(json.dumps({**line, "after_epoch": turn.epoch, "pid": os.getpid()}), flush=True)
            return
        what = {WAIT: "on standby", TRY: "takes over", OVER: "stops"}[turn.do]
        print(f"{what}: {turn.why}", file=sys.stderr)

    def _say_ready(self, service: SyncerService) -> None:
        address = service.address
        if self._asked.words:
            print(f"run {service.settings.run.run!r} is served at {address}", file=sys.stderr)
            return
        ready = {
            "event": "ready",
            "run": service.settings.run.run,
            "address": str(address),
            "host": address.host,
            "port": address.port,
            "tls": self._options.tls is not None,
            "pid": os.getpid(),
        }
        print(json.dumps(ready), flush=True)


class _Stop:
    """Whatever may ask the process to stop."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._service: SyncerService | None = None
        self._watches_stdin = False

    def what_runs(self, service: SyncerService) -> None:
        """This is to be stopped from now on; at once, where stopping was asked for before."""
        self._service = service
        if self.asked.is_set():
            service.ask_to_stop()

    def now(self) -> None:
        """Stop."""
        self.asked.set()
        service = self._service
        if service is not None:
            service.ask_to_stop()

    def on_signals(self) -> None:
        """SIGTERM and SIGINT; before the start too, when they take effect after it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        # Not from within the handler: the main thread may hold the very lock that this takes.
        threading.Thread(target=self.now, daemon=True).start()

    def on_end_of_stdin(self) -> None:
        """The parent holds the other end: when it dies, so do we."""
        if self._watches_stdin:
            return
        self._watches_stdin = True

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            log.warning("the parent process is gone")
            self.now()

        threading.Thread(target=watch, name="atoll-parent", daemon=True).start()

    def on_end_of_run(self, service: SyncerService, linger_s: float) -> None:
        """The run has ended: learners have a while to hear of it and fetch."""

        def watch() -> None:
            service.ended.wait()
            service.wait(linger_s)
            self.now()

        threading.Thread(target=watch, name="atoll-ended", daemon=True).start()


def _take_descriptors() -> None:
    """As many as we may have: every connection takes one, that of a stranger too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # some systems name a limit that they do not allow
        log.info("%d descriptors, not %d: %s", soft, hard, error)


def _settings(asked: argparse.Namespace) -> SyncerSettings:
    """The settings, listening where the command line says."""
    settings = read_settings(asked.settings)
    service = settings.service
    service = replace(service, host=asked.host or service.host, port=asked.port or service.port)
    return replace(settings, service=service)


def _options(asked: argparse.Namespace) -> SyncerOptions:
    if asked.standby and asked.new:
        raise SyncerError("--standby takes a run over, --new begins one: leave one of them out")
    secret = Secret(read_private(asked.secret_file).decode(errors="replace").strip())
    disk = None
    if asked.chaos_dir is not None:
        disk = DiskOnOrders(asked.chaos_dir)
        jump_on_orders(asked.chaos_dir, "syncer")
    return SyncerOptions(
        asked.root, secret, asked.new, tls=_tls(asked), tapes=asked.tapes, disk=disk
    )


def _tls(asked: argparse.Namespace) -> ssl.SSLContext | None:
    if (asked.tls_certificate is None) != (asked.tls_key is None):
        raise SyncerError("--tls-certificate and --tls-key go together: give both, or neither")
    if asked.tls_certificate is None:
        return None
    return server_context(asked.tls_certificate, asked.tls_key)


def _mistake(text: str) -> int:
    print(text, file=sys.stderr)
    return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atoll.syncer", description="Run one syncer.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="directory that holds runs' durable state")
    add("--settings", type=Path, required=True, help="resolved settings, JSON or TOML")
    add("--secret-file", type=Path, required=True, help="the run's secret, a file of mode 0600")
    add("--new", action="store_true", help="begin the run; refused where it has state")
    add("--tls-certificate", type=Path, help="PEM; needed off the loopback")
    add("--tls-key", type=Path, help="PEM, mode 0600")
    add("--tapes", type=Path, help="directory for the tapes of the cores")
    add("--host", default="", help="listen here, not where the settings say")
    add("--port", type=int, default=0, help="as --host")
    add("--standby", action="store_true", help="wait, and take the run over when its owner is gone")
    add(
        "--takeover-after",
        type=float,
        default=SILENCE_S,
        metavar="S",
        help="seconds without a sign of life after which a standby takes over",
    )
    add("--chaos-dir", type=Path, help="for faults on purpose: disk and clock do as they are told")
    add("--words", action="store_true", help="say for people, not in JSON, that it listens")
    add("--watch-stdin", action="store_true", help="stop when standard input ends")
    add("--exit-when-ended", action="store_true", help="stop when the run has ended")
    add("--linger-s", type=float, default=10.0, help="time to serve after the run's end")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser
