"""The run's secret and the bearer tokens derived from it.

A token is HMAC-SHA256 of the secret over a label with the role, sent inside TLS: the secret itself
never travels, a token cannot be turned into the secret or into another role's token, and whoever
reads one out of a log holds that role only. Must never show a secret in a repr, and never compare
in a time that depends on the content.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from atoll.access.errors import AccessError

SECRET_BYTES = 32
MASK = "********"
_LABEL = "atoll bearer 1: "
_SCHEME = "Bearer "
_SECRET = re.compile(r"^[A-Za-z0-9_-]{43}\Z")


class Role(StrEnum):
    """What a token allows: to take part, or only to look."""

    LEARNER = "learner"
    OBSERVER = "observer"


@dataclass(frozen=True, repr=False)
class Secret:
    """32 random bytes in URL-safe letters. Shown masked; `reveal()` is for the invite file."""

    _text: str

    def __post_init__(self) -> None:
        if not _SECRET.match(self._text):
            raise AccessError(
                f"a run secret has 43 URL-safe letters ({SECRET_BYTES} bytes), this one has "
                f"{len(self._text)} characters; copy the invite again from where it was made"
            )

    def reveal(self) -> str:
        """The secret in clear."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__


def new_secret() -> Secret:
    """A secret for a new run."""
    return Secret(secrets.token_urlsafe(SECRET_BYTES))


def check(presented: str, expected: str) -> bool:
    """Equal? In a time that says nothing about where they differ."""
    # What is presented may hold anything, surrogates from a header included: no error for that.
    odd = "backslashreplace"
    return hmac.compare_digest(presented.encode(errors=odd), expected.encode(errors=odd))


def token(secret: Secret, role: Role) -> str:
    """The bearer token of a role."""
    key = secret.reveal().encode()
    return hmac.new(key, f"{_LABEL}{role.value}".encode(), "sha256").hexdigest()


def authorization(secret: Secret, role: Role) -> str:
    """The value of the `Authorization` header."""
    return _SCHEME + token(secret, role)


def role_of(header: str, secret: Secret) -> Role | None:
    """Who presents this `Authorization` header; None: nobody invited."""
    found = None
    for role in Role:
        if check(header, authorization(secret, role)):
            found = role
    return found
