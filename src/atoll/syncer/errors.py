"""Refusals of the service: a status for HTTP, a code for programs, a sentence for people."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that changes nothing, and why. `retry_s` > 0: it may be granted later."""

    def __init__(self, status: int, code: str, sentence: str, retry_s: int = 0) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status = status
        self.code = code
        self.sentence = sentence
        self.retry_s = retry_s


class SyncerError(ValueError):
    """A syncer that cannot start as asked. The message names the fix."""


def starting(sentence: str) -> RefusedError:
    """Not yet: ask again in a second."""
    return RefusedError(503, "starting", sentence, 1)
