"""A folder that is there whole or not at all: made under another name beside it, then renamed.

Must never touch a folder that holds something already.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.core.settings import SettingsError


def refuse_taken(path: Path, option: str) -> None:
    """Raise where something is already; `option` is how the user names another place."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise SettingsError(
            f"{path} is there already and nothing is overwritten: name another folder with {option}"
        )


@contextmanager
def whole_folder(path: Path, option: str) -> Iterator[Path]:
    """A folder to write into, which is at `path` when the block has ended without an error."""
    refuse_taken(path, option)
    place = Path(os.path.abspath(path))  # noqa: PTH100  # a link on the way stays one
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise SettingsError(f"cannot write beside {path}: {error.strerror}") from error
    try:
        yield beside
        for file in beside.rglob("*"):
            _make_durable(file)
        _make_durable(beside)
        refuse_taken(path, option)
        beside.chmod(0o777 & ~_umask())
        beside.rename(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _make_durable(place.parent)


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
