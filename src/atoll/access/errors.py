"""What access refuses, with the fix in the message."""

from __future__ import annotations

from pathlib import Path


class AccessError(Exception):
    """An invite, a token or a certificate that cannot be used."""


class TooOpenError(AccessError):
    """A file with a secret in it that others on the machine may read."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(
            f"{path} holds a secret and others may read it (mode {mode:04o}); fix: chmod 600 {path}"
        )


class AlreadyThereError(AccessError):
    """A secret would overwrite a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists and is not overwritten; remove it or name another file")
