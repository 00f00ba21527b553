"""Where the syncer is, and as whom to come in: what every connection needs to be opened.

An invite may name several addresses: the syncer's and those of standbys. One of them serves, and
all connections of an island go to the same: whichever was the last to be reached leads the others.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from atoll.access.addresses import Address
from atoll.access.invite import Invite
from atoll.access.tls import client_context
from atoll.access.tokens import Role, authorization
from atoll.ferry.errors import FerryError
from atoll.wire.protocol import PROTOCOL, PROTOCOL_HEADER, ROOT

CONTROL_ALPN = "atoll-control"
"""Lets a syncer tell control from bulk before anything is decrypted."""
CONNECT_S = 10.0
STALL_S = 30.0
"""A connection on which nothing moves for so long is given up."""


class Whereabouts:
    """Which of a run's addresses serves, as far as is known. Safe for threads.

    While a control connection stands it decides; a broken transfer says nothing against it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place = 0
        self._stands = False

    @property
    def place(self) -> int:
        """The address to try first, by its number."""
        return self._place

    def stands(self, place: int) -> None:
        """A control connection stands there, until `lost`."""
        with self._lock:
            self._place, self._stands = place, True

    def lost(self, place: int, num_places: int) -> None:
        """A control connection was lost there, or could not be had."""
        with self._lock:
            self._stands = False
        self.leave(place, num_places)

    def found(self, place: int) -> None:
        """Somebody takes connections there."""
        with self._lock:
            if not self._stands:
                self._place = place

    def leave(self, place: int, num_places: int) -> None:
        """Nobody answered there: the next one is tried first, unless somebody knows better."""
        with self._lock:
            if self._place == place and not self._stands:
                self._place = (place + 1) % num_places


@dataclass(frozen=True)
class Door:
    """`proxy` is `http://host:port`, empty for none; nothing is taken from the environment."""

    run: str
    addresses: tuple[Address, ...]
    authorization: str = field(repr=False)
    tls: ssl.SSLContext | None
    proxy: Address | None = None
    connect_s: float = CONNECT_S
    stall_s: float = STALL_S
    control_tls: ssl.SSLContext | None = None
    """As `tls`, but says in its first bytes that it is a control connection."""
    where: Whereabouts = field(default_factory=Whereabouts, compare=False)

    def path(self, *parts: str | int) -> str:
        """A path of this run."""
        tail = "/".join(quote(str(part), safe="") for part in parts)
        return f"{ROOT}/{quote(self.run, safe='')}/{tail}"

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": self.authorization, PROTOCOL_HEADER: str(PROTOCOL)}

    def __str__(self) -> str:
        return " or ".join(str(address) for address in self.addresses)


def door_of(invite: Invite, role: Role = Role.LEARNER, proxy: str = "") -> Door:
    """The door that an invite opens."""
    tls = control_tls = None
    if invite.has_tls:
        tls, control_tls = client_context(invite.ca_pem), client_context(invite.ca_pem)
        control_tls.set_alpn_protocols([CONTROL_ALPN, "http/1.1"])
    pass_ = authorization(invite.secret, role)
    through = _proxy(proxy)
    connect_s = CONNECT_S / len(invite.addresses)
    return Door(
        invite.run, invite.addresses, pass_, tls, through, connect_s, control_tls=control_tls
    )


def _proxy(text: str) -> Address | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise FerryError(f"proxy {text!r}: write http://host:port")
    return Address(parts.hostname, parts.port)
