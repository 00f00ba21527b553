"""The invite: one file with all a learner needs to come in.

JSON, mode 0600: where the run is, its authority's certificate, its name, its secret. Must never
show the secret in a repr, nor be read when others on the machine could read it too. Keeps
invariant 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.access.addresses import Address, is_loopback, parse_address
from atoll.access.errors import AccessError
from atoll.access.private import read_private, write_private
from atoll.access.tokens import Secret

FORMAT = 1


@dataclass(frozen=True)
class Invite:
    """`ca_pem` may be empty only if every address is this machine's own: then without TLS."""

    run: str
    addresses: tuple[Address, ...]
    ca_pem: str
    secret: Secret

    def __post_init__(self) -> None:
        if not self.run:
            raise AccessError("an invite names its run")
        if not self.addresses:
            raise AccessError(f"the invite to run {self.run!r} has no address to go to")
        far = [str(address) for address in self.addresses if not is_loopback(address.host)]
        if far and not self.ca_pem:
            raise AccessError(
                f"the invite to run {self.run!r} has no certificate to check {far[0]} against; "
                "make it again with `atoll init`"
            )

    @property
    def has_tls(self) -> bool:
        """Connections are to be made under TLS."""
        return bool(self.ca_pem)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: str
    addresses: tuple[str, ...]
    secret: str
    ca_pem: str = ""
    format: int = FORMAT


def write_invite(path: Path, invite: Invite) -> None:
    """A new file of mode 0600; never overwrites."""
    file = _File(
        invite.run,
        tuple(str(address) for address in invite.addresses),
        invite.secret.reveal(),
        invite.ca_pem,
    )
    write_private(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")


def read_invite(path: Path) -> Invite:
    """The invite in a file, or `AccessError` with the fix."""
    raw = read_private(path)
    try:
        file = msgspec.json.decode(raw, type=_File)
    except msgspec.DecodeError as error:
        raise AccessError(
            f"{path} is not an invite: {error}; copy it again from where it was made"
        ) from None  # the cause would carry the file's text
    if file.format != FORMAT:
        raise AccessError(
            f"{path} is an invite of format {file.format}, this atoll reads {FORMAT}; "
            "use the same version of atoll on both sides"
        )
    addresses = tuple(parse_address(text) for text in file.addresses)
    return Invite(file.run, addresses, file.ca_pem, Secret(file.secret))
