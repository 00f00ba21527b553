"""Where the syncer is, and as whom to come in: what every connection needs to be opened."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Door:
    """`proxy` is `http://host:port`, empty for none; nothing is taken from the environment."""

    run: str
    addresses: tuple[Address, ...]
    authorization: str
    tls: ssl.SSLContext | None
    proxy: Address | None = None
    connect_s: float = CONNECT_S
    stall_s: float = STALL_S
    control_tls: ssl.SSLContext | None = None
    """As `tls`, but says in its first bytes that it is a control connection."""

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
    return Door(invite.run, invite.addresses, pass_, tls, through, control_tls=control_tls)


def _proxy(text: str) -> Address | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise FerryError(f"proxy {text!r}: write http://host:port")
    return Address(parts.hostname, parts.port)
