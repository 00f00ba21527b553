"""`host:port` as people write it, and which hosts are this machine's own.

Must never resolve a name: what an address means is decided by its letters alone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from atoll.access.errors import AccessError

_ADDRESS = re.compile(
    r"^(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]+)\Z"
)
_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")


@dataclass(frozen=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address in `host:port` or `[v6]:port`."""
    match = _ADDRESS.match(text)
    if not match or not 0 < int(match["port"]) < 1 << 16:
        raise AccessError(
            f"address {text!r}: write host:port or [ipv6]:port, as in lagoon.example.org:7777"
        )
    host = match["six"] or match["host"]
    as_ip_or_name(host)
    return Address(host, int(match["port"]))


def as_ip_or_name(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    """The host as an IP address, or as the name it is."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if not _NAME.match(host):
            raise AccessError(
                f"host {host!r} is neither an IP address nor a host name (no port, no scheme)"
            ) from None
        return host


def is_loopback(host: str) -> bool:
    """Only this machine can reach it."""
    parsed = as_ip_or_name(host)
    if isinstance(parsed, str):
        return parsed.lower() == "localhost"
    return parsed.is_loopback


def refuse_plain_listener(host: str) -> None:
    """Raise if listening at `host` without TLS would show the run to a network."""
    if not is_loopback(host):
        raise AccessError(
            f"nothing listens at {host} without TLS; give it a certificate (`atoll init` makes "
            "one) or listen at 127.0.0.1"
        )
