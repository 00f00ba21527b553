"""Before the ferry sails: ask for the run's terms, bring or compare the layout.

Blocking requests in the thread that called `join`, each try within the caller's deadline. What
can pass is tried again with growing pauses; what cannot is raised at once, in the syncer's words.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from atoll.ferry.bulk import BulkConnection, Request
from atoll.ferry.door import Door
from atoll.ferry.errors import FerryError, LinkBrokenError, RefusedError
from atoll.ferry.pace import Pace
from atoll.ferry.terms import RunTerms, terms_from
from atoll.fragments import Layout, first_difference

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LAYOUT_BYTES = 1 << 26

log = logging.getLogger("atoll.learner")
T = TypeVar("T")


class LayoutDiffersError(FerryError):
    """This island's model is not the run's."""

    def __init__(self, mine: Layout, theirs: Layout):
        super().__init__(
            f"this model does not fit the run: {first_difference(mine, theirs)}\n"
            f"  here:  {mine.fingerprint()}\n  there: {theirs.fingerprint()}"
        )


class Hall:
    """Short questions, answered or refused before `until_s`."""

    def __init__(self, door: Door, until_s: float):
        self.door = door
        self.until_s = until_s
        self._connection = BulkConnection(door, Pace())

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def terms(self) -> RunTerms:
        """How the run is run."""
        request = Request("GET", self.door.path("settings"))
        return terms_from(self._json(self._patiently(lambda: self._connection.ask(request).body)))

    def layout(self) -> Layout | None:
        """The run's layout; None while nobody brought one."""
        request = Request("GET", self.door.path("layout"))

        def ask() -> bytes:
            try:
                return self._connection.ask(request).body
            except RefusedError as refused:
                if refused.status == 404 and refused.code in ("no_layout", "layout"):
                    return b""
                raise

        body = self._patiently(ask)
        if not body:
            return None
        plain = self._json(body)
        try:
            return Layout.from_dict(plain)  # type: ignore[arg-type]
        except ValueError as error:
            raise FerryError(f"the run's layout cannot be read: {error}") from error

    def agree(self, mine: Layout) -> None:
        """Bring the layout, or find that there is an equal one."""
        theirs = self.layout()
        if theirs is None:
            body = json.dumps(mine.to_dict()).encode()
            headers = {"Content-Type": "application/json"}
            request = Request("PUT", self.door.path("layout"), body, headers)
            try:
                self._patiently(lambda: self._connection.ask(request))
            except RefusedError as refused:
                theirs = self.layout() if refused.status == 409 else None
                if theirs is None:
                    raise
        if theirs is not None and theirs.fingerprint() != mine.fingerprint():
            raise LayoutDiffersError(mine, theirs)

    def _patiently(self, ask: Callable[[], T]) -> T:
        pause_s, said = FIRST_PAUSE_S, ""
        while True:
            try:
                return ask()
            except (LinkBrokenError, RefusedError) as error:
                if isinstance(error, RefusedError) and not error.may_pass:
                    raise
                left_s = self.until_s - time.monotonic()
                if left_s <= 0:
                    raise
                if str(error) != said:
                    said = str(error)
                    log.warning("waiting for the syncer: %s", said)
            time.sleep(min(left_s, pause_s * (0.5 + random.random())))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _json(self, body: bytes) -> object:
        try:
            return json.loads(body)
        except ValueError as error:
            raise FerryError(f"{self.door} does not answer in JSON: {error}") from error
