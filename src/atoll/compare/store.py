"""Results as they come: one JSON file per finished trial, so a comparison goes on where it was.

A file appears whole or not at all. Several processes may share a folder: a claim keeps two of them
from doing the same trial, and a claim whose process is gone does not count.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from atoll import __version__
from atoll.compare.trial import NUMBERS, Trial
from atoll.simulator.training import TrainingResult


@dataclass(frozen=True, slots=True)
class Kept:
    """A result from the folder."""

    settings: dict[str, Any]
    result: TrainingResult
    took_s: float
    machine: str


class ResultFolder:
    """Results by the key of their trial."""

    def __init__(self, path: Path):
        self.path = path

    def find(self, trial: Trial) -> Kept | None:
        """The result of this trial, if it is there."""
        return self.read(self.file_of(trial))

    def file_of(self, trial: Trial) -> Path:
        """Where its result is, or will be."""
        return self.path / f"{trial.method}-{trial.key}.json"

    @staticmethod
    def read(file: Path) -> Kept | None:
        """A result file, if it is there."""
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        result = msgspec.convert(plain["result"], TrainingResult)
        return Kept(plain["settings"], result, plain["took_s"], plain["machine"])

    def save(self, trial: Trial, result: TrainingResult, took_s: float, machine: str) -> Path:
        """Keep a result; the file is complete when it appears."""
        self.path.mkdir(parents=True, exist_ok=True)
        plain = {
            "numbers": NUMBERS,
            "atoll": __version__,
            "machine": machine,
            "took_s": round(took_s, 1),
            "settings": trial.plain(),
            "result": asdict(result),
        }
        file = self.file_of(trial)
        fresh = file.with_suffix(f".{os.getpid()}.new")
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(plain, indent=1, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
        return file

    def claim(self, trial: Trial) -> bool:
        """Whether this process may do the trial: nobody who lives is at it."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._claim_of(trial)
        while True:
            try:
                with file.open("x", encoding="utf-8") as stream:
                    stream.write(str(os.getpid()))
                return True
            except FileExistsError:
                if _lives(file):
                    return False
                file.unlink(missing_ok=True)

    def release(self, trial: Trial) -> None:
        """The trial is done, or given up."""
        self._claim_of(trial).unlink(missing_ok=True)

    def _claim_of(self, trial: Trial) -> Path:
        return self.file_of(trial).with_suffix(".claim")


def _lives(claim: Path) -> bool:
    """Whether the process that made a claim is there."""
    try:
        pid = int(claim.read_text(encoding="utf-8"))
        os.kill(pid, 0)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
