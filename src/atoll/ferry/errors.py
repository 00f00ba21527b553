"""What can go wrong between an island and the lagoon, each with the sentence to show."""

from __future__ import annotations


class FerryError(Exception):
    """Anything that ends or hinders the carrying of fragments."""


class LinkBrokenError(FerryError):
    """A connection could not be made, or broke; trying again may help."""


class RefusedError(FerryError):
    """The syncer answered, and said no."""

    def __init__(self, status: int, code: str, sentence: str, retry_after_s: float = 0.0):
        super().__init__(f"{sentence} ({status} {code})")
        self.status = status
        self.code = code
        self.sentence = sentence
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """The same request may be granted later."""
        return self.status in (408, 425, 429) or self.status >= 500


class GivenUpError(FerryError):
    """Nobody wants the outcome of this transfer any more."""


class FerryDiedError(FerryError):
    """The thread that carries fragments is gone; its cause is chained."""


class LearnerOverError(FerryError):
    """This learner may take no further part, and why."""
