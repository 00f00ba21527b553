"""What a training loop may see raised."""

from __future__ import annotations

from atoll.ferry.errors import FerryDiedError, FerryError, LearnerOverError


class JoinError(FerryError):
    """This process does not take part; the message has the address and the reason."""


class InstallUndoneError(FerryError):
    """The optimizer wrote old values over installed ones."""


__all__ = ["FerryDiedError", "InstallUndoneError", "JoinError", "LearnerOverError"]
