"""Asking a syncer how its run stands, from anywhere that its invite is.

Comes in as an observer, so it cannot change anything. A syncer that does not answer is no error:
it may be on its way back, and the look says why and since when.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.tls import client_context
from atoll.access.tokens import Role, authorization

STATUS_S = 2.0


class RefusedHereError(ValueError):
    """The syncer answered, and this invite is not to its run. Waiting would not help."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a run. `status` is the last that came; `why` it does not answer now, if so."""

    status: dict[str, Any]
    why: str = ""
    silent_s: float = 0.0

    @property
    def answers(self) -> bool:
        """The syncer answered now."""
        return not self.why


@dataclass(slots=True)
class Watcher:
    """Looks again and again, and remembers what was seen last."""

    invite: Invite
    clock: Callable[[], float] = time.monotonic
    _last: dict[str, Any] = field(default_factory=dict)
    _silent_since_s: float = -1.0

    def look(self) -> Look:
        """Ask now; blocks for a few seconds at most."""
        status, why = ask_status(self.invite)
        if status:
            self._last, self._silent_since_s = status, -1.0
            return Look(status)
        now_s = self.clock()
        if self._silent_since_s < 0:
            self._silent_since_s = now_s
        return Look(self._last, why, now_s - self._silent_since_s)


def fetch_status(invite: Invite) -> dict[str, Any]:
    """The syncer's status, or nothing when it does not answer now."""
    try:
        return ask_status(invite)[0]
    except RefusedHereError:
        return {}


def ask_status(invite: Invite) -> tuple[dict[str, Any], str]:
    """The status from the first address that answers; otherwise nothing, and why."""
    tls = client_context(invite.ca_pem) if invite.has_tls else None
    whys = []
    for address in invite.addresses:
        try:
            return _ask(address, invite, tls), ""
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, RefusedHereError):
                raise
            whys.append(f"{address}: {str(error) or type(error).__name__}")
    return {}, "; ".join(whys)


def _ask(address: Address, invite: Invite, tls: ssl.SSLContext | None) -> dict[str, Any]:
    connection = _connection(address, tls)
    headers = {"Authorization": authorization(invite.secret, Role.OBSERVER)}
    try:
        connection.request("GET", "/api/status", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status in (401, 403):
        raise RefusedHereError(
            f"the syncer at {address} does not take this invite to run {invite.run!r}: copy the "
            "invite again from where the run was made"
        )
    document = json.loads(body)
    if not isinstance(document, dict) or "phase" not in document:
        raise ValueError(f"it answered {answer.status}, and not with a status")
    return document


def _connection(address: Address, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    host, port = address.host, address.port
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=STATUS_S)
    return http.client.HTTPSConnection(host, port, timeout=STATUS_S, context=tls)
