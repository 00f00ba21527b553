"""The syncer as a process: `python -m atoll.syncer --root DIR --settings FILE --secret-file FILE`.

Prints one line of JSON on standard output when it listens, and nothing else there. SIGTERM, SIGINT
and, with `--watch-stdin`, the end of standard input stop it in order. The edge of the process:
errors become words and exit codes here.

    0  stopped as asked, or the run has ended     1  it could not go on
    2  a mistake of the user's, with the fix      3  fenced: another process owns the run now
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from atoll.access.errors import AccessError
from atoll.access.private import read_private
from atoll.access.tls import server_context
from atoll.access.tokens import Secret
from atoll.core.settings import SettingsError
from atoll.store.errors import Fenced, RunExists, RunNotFound, StoreError
from atoll.syncer.errors import SyncerError
from atoll.syncer.service import SyncerOptions, SyncerService
from atoll.syncer.settings import read_settings

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
    try:
        service = SyncerService(read_settings(asked.settings), _options(asked))
        stop = _Stop(service)
        stop.on_signals()
        address = service.start()
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
    if asked.watch_stdin:
        stop.on_end_of_stdin()
    if asked.exit_when_ended:
        stop.on_end_of_run(asked.linger_s)
    if asked.words:
        print(f"run {service.settings.run.run!r} is served at {address}", file=sys.stderr)
    else:
        _say_ready(service, str(address), asked.tls_certificate is not None)
    service.wait()
    service.stop()
    if isinstance(service.error, Fenced):
        return FENCED
    return STOPPED if service.error is None else FAILED


class _Stop:
    """Whatever may ask the process to stop."""

    def __init__(self, service: SyncerService) -> None:
        self._service = service

    def on_signals(self) -> None:
        """SIGTERM and SIGINT; before the start too, when they take effect after it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        # Not from within the handler: the main thread may hold the very lock that this takes.
        threading.Thread(target=self._service.ask_to_stop, daemon=True).start()

    def on_end_of_stdin(self) -> None:
        """The parent holds the other end: when it dies, so do we."""

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            log.warning("the parent process is gone")
            self._service.ask_to_stop()

        threading.Thread(target=watch, name="atoll-parent", daemon=True).start()

    def on_end_of_run(self, linger_s: float) -> None:
        """The run has ended: learners have a while to hear of it and fetch."""

        def watch() -> None:
            self._service.ended.wait()
            self._service.wait(linger_s)
            self._service.ask_to_stop()

        threading.Thread(target=watch, name="atoll-ended", daemon=True).start()


def _options(asked: argparse.Namespace) -> SyncerOptions:
    secret = Secret(read_private(asked.secret_file).decode(errors="replace").strip())
    return SyncerOptions(asked.root, secret, asked.new, _tls(asked), asked.tapes)


def _tls(asked: argparse.Namespace) -> ssl.SSLContext | None:
    if (asked.tls_certificate is None) != (asked.tls_key is None):
        raise SyncerError("--tls-certificate and --tls-key go together: give both, or neither")
    if asked.tls_certificate is None:
        return None
    return server_context(asked.tls_certificate, asked.tls_key)


def _say_ready(service: SyncerService, address: str, has_tls: bool) -> None:
    ready = {
        "event": "ready",
        "run": service.settings.run.run,
        "address": address,
        "host": service.address.host,
        "port": service.address.port,
        "tls": has_tls,
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)


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
    add("--words", action="store_true", help="say for people, not in JSON, that it listens")
    add("--watch-stdin", action="store_true", help="stop when standard input ends")
    add("--exit-when-ended", action="store_true", help="stop when the run has ended")
    add("--linger-s", type=float, default=10.0, help="time to serve after the run's end")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser
