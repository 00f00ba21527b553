"""What a training loop may see raised."""

from __future__ import annotations

from atoll.ferry.errors import FerryDiedError, FerryError, LearnerOverError


class JoinError(FerryError):
    """This process does not take part; the message has the address and the reason."""


class InstallUndoneError(FerryError):
    """The optimizer wrote old values over installed ones."""


class DataError(FerryError, ValueError):
    """The data cannot be read as asked; the message has the fix."""


__all__ = ["DataError", "FerryDiedError", "InstallUndoneError", "JoinError", "LearnerOverError"]
