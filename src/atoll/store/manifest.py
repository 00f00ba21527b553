"""Numbered manifests: which snapshots and log files are the run, and which epoch owns it.

A manifest is written whole to a temporary name, fsynced, and given its number by a hard link,
which fails if the number is taken: one writer wins, and nobody sees half a manifest. Where there
are no hard links the number is taken by creating `claim-N` exclusively and the file is then
renamed (`method` says which). Must never replace a manifest. Keeps: a number is committed once,
an owner that finds a higher number than its own is fenced, and one that does not find its own
takes nothing for committed.
"""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.store.disk import Disk, disk_errors, read_errors, write_file
from atoll.store.errors import DiskFailed, Fenced, ManifestDamaged
from atoll.store.segments import SegmentSpan

FORMAT = 1
_NAME = re.compile(r"^(?:manifest-(\d{6,})\.json|claim-(\d{6,}))\Z")
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class Owner(msgspec.Struct, frozen=True):
    """The process that wrote a manifest, for people to find it."""

    host: str
    pid: int


class SnapshotRef(msgspec.Struct, frozen=True):
    """A snapshot that is kept. `digest` covers its state file, which covers its tensors.

    `tokens` is what the run had trained when it was taken.
    """

    name: str
    digest: str
    upto_lsn: int
    pinned: bool
    tokens: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The run at one moment.

    `epoch` owns the run. `closed` are the log files of earlier epochs that still count; the rest
    of the log is what `open_epoch` wrote from `open_first_lsn` on. While a takeover is under way
    `open_epoch` is still the previous owner's.
    """

    run: str
    number: int
    epoch: int
    owner: Owner
    snapshots: tuple[SnapshotRef, ...]
    closed: tuple[SegmentSpan, ...]
    open_epoch: int
    open_first_lsn: int
    format: int = FORMAT

    def who(self) -> str:
        """The owner as a sentence names it."""
        return f"epoch {self.epoch} (process {self.owner.pid} on {self.owner.host})"


@dataclass(frozen=True)
class Latest:
    """What `ManifestBook.latest` found. `manifest` is None if there is none at all.

    `next_number` belongs to the same look at the directory: taking it fails if anybody committed
    since. `notes` say which damaged or abandoned numbers were gone behind.
    """

    manifest: Manifest | None
    next_number: int
    notes: tuple[str, ...]


class _Envelope(msgspec.Struct, frozen=True):
    sha256: str
    manifest: msgspec.Raw


def manifest_file(number: int) -> str:
    """The file name of a manifest."""
    return f"manifest-{number:06d}.json"


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest with the digest of its bytes."""
    body = msgspec.json.encode(manifest)
    envelope = _Envelope(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))
    return msgspec.json.encode(envelope) + b"\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file, or `ManifestDamaged`."""
    with read_errors(path):
        raw = path.read_bytes()
    try:
        envelope = msgspec.json.decode(raw, type=_Envelope)
        if hashlib.sha256(envelope.manifest).hexdigest() != envelope.sha256:
            raise ManifestDamaged(path, 0, "its bytes do not have the digest it names")
        manifest = msgspec.json.decode(envelope.manifest, type=Manifest)
    except msgspec.DecodeError as error:
        raise ManifestDamaged(path, 0, f"not a manifest of format {FORMAT}: {error}") from error
    if manifest.format != FORMAT:
        raise ManifestDamaged(
            path, 0, f"format {manifest.format} needs another version of atoll (this: {FORMAT})"
        )
    return manifest


class ManifestBook:
    """The manifests of one run, as one process sees and adds to them. Safe for threads."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk
        self._lock = threading.Lock()
        self._token = secrets.token_hex(4)
        self._current: Manifest | None = None
        self.method = "hard link"

    @property
    def current(self) -> Manifest:
        """The last manifest this process committed."""
        assert self._current is not None, "nothing was committed yet"
        return self._current

    def numbers(self) -> list[int]:
        """Every number that is taken, in order, claims included."""
        with read_errors(self._directory):
            try:
                matches = [_NAME.match(path.name) for path in self._directory.iterdir()]
            except FileNotFoundError:
                return []
        return sorted({int(match[1] or match[2]) for match in matches if match})

    def latest(self) -> Latest:
        """The highest good manifest, and the number a successor to it has to take."""
        notes: list[str] = []
        newest_damage: ManifestDamaged | None = None
        numbers = self.numbers()
        next_number = max(numbers, default=0) + 1
        for number in reversed(numbers):
            path = self._directory / manifest_file(number)
            with read_errors(path):
                was_written = path.exists()
            if not was_written:
                notes.append(f"manifest {number} was claimed and never written: ignored")
                continue
            try:
                return Latest(read_manifest(path), next_number, tuple(notes))
            except ManifestDamaged as damaged:
                newest_damage = newest_damage or damaged
                notes.append(f"went back behind a damaged manifest: {damaged}")
        if newest_damage is not None:
            raise newest_damage
        return Latest(None, next_number, tuple(notes))

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the run, or raise `Fenced` if its number or a higher one is taken."""
        data = encode_manifest(manifest)
        temporary = self._directory / f".tmp-{self._token}-{manifest.number}"
        with self._lock, disk_errors(self._disk, self._directory, len(data)):
            self._refuse_if_behind(manifest, manifest.number - 1)
            write_file(self._disk, temporary, [data])
            try:
                self._take_number(temporary, manifest)
            except (FileExistsError, FileNotFoundError):
                raise self._fenced(manifest) from None
            finally:
                with suppress(OSError):
                    self._disk.unlink(temporary)
            self._current = manifest
            self._refuse_if_behind(manifest, manifest.number)
            self._disk.fsync_dir(self._directory)

    def check_fence(self) -> None:
        """Raise `Fenced` if another process has committed (or claimed) a newer manifest."""
        with self._lock:
            self._refuse_if_behind(self.current, self.current.number)

    def glance_at_fence(self) -> None:
        """As `check_fence`, but never behind a commit's fsyncs: a commit looks for itself."""
        if self._lock.acquire(blocking=False):
            try:
                self._refuse_if_behind(self.current, self.current.number)
            finally:
                self._lock.release()

    def remove_before(self, number: int) -> None:
        """Drop manifests that nobody reads any more."""
        for old in self.numbers():
            if old < number:
                for name in (manifest_file(old), f"claim-{old:06d}"):
                    self._remove(self._directory / name)

    def clean_temporaries(self) -> list[str]:
        """Remove half-written manifests of others; whoever still writes one has lost already."""
        with read_errors(self._directory):
            found = [path for path in self._directory.iterdir() if path.name.startswith(".tmp-")]
        for path in found:
            self._remove(path)
        return [f"removed the half-written manifest {path.name}" for path in found]

    def _remove(self, path: Path) -> None:
        with disk_errors(self._disk, path), suppress(FileNotFoundError):
            self._disk.unlink(path)

    def _take_number(self, temporary: Path, manifest: Manifest) -> None:
        final = self._directory / manifest_file(manifest.number)
        if self.method == "hard link":
            try:
                self._disk.link(temporary, final)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self.method = "claim and rename (no hard links here)"
        claim = self._directory / f"claim-{manifest.number:06d}"
        self._disk.close(self._disk.create(claim))
        try:
            self._disk.rename(temporary, final)
        except OSError:
            with suppress(OSError):
                self._disk.unlink(claim)
            raise

    def _refuse_if_behind(self, manifest: Manifest, highest_allowed: int) -> None:
        numbers = self.numbers()
        if max(numbers, default=0) > highest_allowed:
            raise self._fenced(manifest)
        if self._current is not None and self._current.number not in numbers:
            # The path has gone, and an open log file need not have: others may own the run by now.
            gone = OSError(errno.ENOENT, "the manifest of this owner is not to be seen")
            raise DiskFailed(self._directory, gone)

    def _fenced(self, manifest: Manifest) -> Fenced:
        newest = max(self.numbers(), default=manifest.number)
        try:
            winner = read_manifest(self._directory / manifest_file(newest)).who()
        except (ManifestDamaged, DiskFailed):
            winner = f"whoever claimed manifest {newest}"
        return Fenced(self._directory, manifest.who(), winner)
