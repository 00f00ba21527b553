"""A learner's own checkpoint: its inner optimizer state in one file on a local disk.

    file  = magic | frame of JSON (whose state it is) | one frame for each fragment, in order
    frame = length u64 | crc32 u32 | bytes, little-endian; a fragment's are a safetensors body

Written beside the old file and put in its place when it is whole and on disk, so there is always
one that can be read. Sizes are checked against the layout before memory is taken. Must never
raise into training: a disk that fails costs the checkpoint, and is said.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from atoll.fragments import Layout
from atoll.fragments.inner import InnerStateError, most_bytes

MAGIC = b"ATOLLIN1"
FRAME = struct.Struct("<QI")
OWNER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose inner state it is: it is of no use to another run, model or optimizer."""

    run: str
    name: str
    layout: str
    kind: str


class InnerFile:
    """Being written: `begin`, `add` for each fragment, `finish`. Raises OSError."""

    def __init__(self, path: Path, owner: Owner):
        self.path = path
        self.owner = owner
        self._new = path.with_name(path.name + ".new")
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """A new file, beside the old one."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._new.open("wb")
        self._file.write(MAGIC)
        self.add(memoryview(json.dumps(asdict(self.owner)).encode()))

    def add(self, body: memoryview) -> None:
        """The next fragment."""
        assert self._file is not None, "a file is begun first"
        self._file.write(FRAME.pack(body.nbytes, crc32(body)))
        self._file.write(body)

    def finish(self, step: int) -> None:
        """It is whole: from here on it is the checkpoint. `step` is that of its last fragment."""
        assert self._file is not None, "a file is begun first"
        self.add(memoryview(json.dumps({"step": step}).encode()))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        self._new.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def give_up(self) -> None:
        """What was written is worth nothing, and takes no room any more. Raises nothing."""
        self.close()
        with suppress(OSError):
            self._new.unlink()

    def close(self) -> None:
        """Let go of the file. What is still in its buffer is of no use: `finish` has synced."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read: its fragments, and when it was made."""

    bodies: Mapping[int, memoryview]
    step: int
    age_s: float


def read_inner(path: Path, owner: Owner, layout: Layout) -> Saved:
    """The checkpoint of this learner. Raises InnerStateError where there is none that fits."""
    try:
        with path.open("rb") as file:
            age_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            if file.read(len(MAGIC)) != MAGIC:
                raise InnerStateError(f"{path} is no checkpoint of inner state")
            _check_owner(path, _plain(_frame(file, OWNER_BYTES)), owner)
            bodies = {
                fragment: _frame(file, most_bytes(layout, fragment))
                for fragment in range(layout.num_fragments)
            }
            step = _plain(_frame(file, OWNER_BYTES)).get("step")
    except FileNotFoundError as error:
        raise InnerStateError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise InnerStateError(f"{path} cannot be read: {error}") from error
    return Saved(bodies, step if isinstance(step, int) else 0, age_s)


def _check_owner(path: Path, found: Mapping[str, Any], owner: Owner) -> None:
    for name, wanted in asdict(owner).items():
        if found.get(name) != wanted:
            text = f"{name} {str(found.get(name))[:40]!r}, not {wanted[:40]!r}"
            raise InnerStateError(f"{path} is of {text}")


def _frame(file: BinaryIO, limit_bytes: int) -> memoryview:
    front = file.read(FRAME.size)
    if len(front) < FRAME.size:
        raise InnerStateError("the checkpoint is cut off")
    length, crc = FRAME.unpack(front)
    if length > limit_bytes:
        raise InnerStateError(f"a frame of {length} bytes, at most {limit_bytes} belong there")
    body = file.read(length)
    if len(body) != length or crc32(body) != crc:
        raise InnerStateError("the checkpoint is damaged")
    return memoryview(body)


def _plain(body: memoryview) -> dict[str, Any]:
    try:
        plain = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise InnerStateError(f"the checkpoint cannot be read: {error}") from error
    return plain if isinstance(plain, dict) else {}
