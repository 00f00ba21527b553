"""Files that hold a secret: made exclusively with mode 0600, refused when others may read them.

Must never overwrite, and never widen a mode. The mode is checked on the opened file, so it cannot
be exchanged between the check and the read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from atoll.access.errors import AccessError, AlreadyThereError, TooOpenError

OWNER_ONLY = 0o600
MAX_BYTES = 1 << 20


def write_private(path: Path, data: bytes) -> None:
    """A new file that only its owner can read."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        raise AlreadyThereError(path) from None
    except OSError as error:
        raise AccessError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, OWNER_ONLY)  # whatever the umask
        file.write(data)
        file.flush()
        os.fsync(fd)


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner can read; `TooOpenError` otherwise."""
    try:
        with path.open("rb") as file:
            refuse_if_open(path, os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise AccessError(f"{path} is larger than {MAX_BYTES} bytes: not a file of atoll's")
    return data


def refuse_if_open(path: Path, status: os.stat_result) -> None:
    """Raise if group or others have any right to the file."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise TooOpenError(path, mode)
