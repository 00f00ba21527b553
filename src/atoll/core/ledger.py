"""The fate of every token of one learner's life, for one fragment.

The learner's token count is cut into intervals, each with one fate: merged, dropped for a reason,
in flight (in a cut whose fate is open) or open (trained, in no cut yet). Nothing is counted twice
and nothing is missing: `merged + dropped + in flight + open = position`, checked by `balance`.

`origin` is where the work begins that the parameters hold beyond the base. Cuts taken since then
are prefixes of one another and of that work; a cut taken before it was dropped stands alone, and
only its own fate is still to come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.ids import Cut, CutId


@dataclass(slots=True)
class FragmentLedger:
    """Intervals of one fragment in one life; positions count tokens since that life began."""

    origin: int = 0
    origin_step: int = 0
    merged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    outstanding: list[Cut] = field(default_factory=list)

    def cut(self, id: CutId, fragment: int, base: int, call: int, at: tuple[int, int]) -> Cut:
        """Put all work since the origin into a cut; `at` is (step, position)."""
        step, position = at
        assert position >= self.origin, "a cut cannot end before its work begins"
        cut = Cut(
            id, fragment, base, self.origin, position, step - self.origin_step, call, at_step=step
        )
        self.outstanding.append(cut)
        return cut

    def find(self, number: int) -> Cut | None:
        """The cut of this number whose fate is open."""
        for cut in self.outstanding:
            if cut.id.number == number:
                return cut
        return None

    def holds(self, cut: Cut) -> bool:
        """Whether the parameters still hold the work of this cut beyond the base."""
        return cut.first_token >= self.origin

    def merge(self, number: int) -> tuple[Cut, list[Cut]]:
        """A cut was merged: settle it, and every other one, older or void by it.

        Returns the merged cut and all that are not outstanding any more.
        """
        merged = self.find(number)
        assert merged is not None, "only an outstanding cut can be merged"
        settled, before = self.outstanding, self._lone_tokens()
        self.outstanding = []
        self.merged += merged.tokens
        if self.holds(merged):
            self._drop("replaced", before)
            self.origin = merged.end_token
            self.origin_step = merged.at_step
        else:
            self._drop("replaced", before - merged.tokens)
        return merged, settled

    def drop(self, number: int, code: str) -> Cut | None:
        """A cut will never be merged. Work the parameters still hold is open again."""
        cut = self.find(number)
        if cut is None:
            return None
        before = self._lone_tokens()
        self.outstanding.remove(cut)
        self._drop(code, before - self._lone_tokens())
        return cut

    def give_up(self, step: int, position: int, code: str) -> None:
        """The parameters let go of all work beyond the base; what is in flight stays so."""
        covered = self._covered_end()
        assert position >= covered
        self._drop(code, position - covered)
        self.origin, self.origin_step = position, step

    def end(self, position: int, code: str) -> list[Cut]:
        """The life is over: whatever has no fate yet is dropped."""
        settled = self.outstanding
        self._drop(code, position - self.merged - self.dropped_tokens)
        self.outstanding = []
        self.origin = position
        return settled

    @property
    def dropped_tokens(self) -> int:
        """Tokens dropped, whatever the reason."""
        tokens = 0
        for each in self.dropped.values():
            tokens += each
        return tokens

    @property
    def in_flight(self) -> int:
        """Tokens in cuts whose fate is open."""
        return self._lone_tokens() + self._covered_end() - self.origin

    @property
    def covered(self) -> bool:
        """Whether a cut whose fate is open holds work that the parameters hold beyond the base."""
        return self._covered_end() > self.origin

    def open(self, position: int) -> int:
        """Tokens trained since the last cut of the work that the parameters hold."""
        return position - self._covered_end()

    def balance(self, position: int) -> int:
        """What the fates add up to, less the position: zero, or the ledger has a gap or overlap."""
        return self.merged + self.dropped_tokens + self.in_flight + self.open(position) - position

    def _covered_end(self) -> int:
        end = self.origin
        for cut in self.outstanding:
            if cut.first_token >= self.origin:
                end = max(end, cut.end_token)
        return end

    def _lone_tokens(self) -> int:
        """Length of the union of outstanding cuts that the parameters do not hold any more."""
        tokens, end = 0, 0
        for cut in self.outstanding:
            if cut.first_token < self.origin:
                tokens += max(0, cut.end_token - max(end, cut.first_token))
                end = max(end, cut.end_token)
        return tokens

    def _drop(self, code: str, tokens: int) -> None:
        assert tokens >= 0, "an interval cannot be shorter than nothing"
        if tokens:
            self.dropped[code] = self.dropped.get(code, 0) + tokens
