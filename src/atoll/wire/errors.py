"""What is wrong with something that came over the wire, as a code and a sentence."""

from __future__ import annotations


class WireError(ValueError):
    """A frame or a header that is refused; nothing was changed by it.

    `code` is for programs and counters, `sentence` for people.
    """

    def __init__(self, code: str, sentence: str):
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
