"""A round of one fragment, and the judgement when to close it.

A round closes when all called have arrived, or when quorum has arrived and grace is over, or at
its deadline. Quorum is K learners *and* a share of the tokens that live learners should hold,
counted over cuts made for this round. After the longest grace a round may go below the share:
it is thin. Below K nothing is merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.core.ids import Cut
from atoll.core.reasons import Reason

NEVER = float("inf")

WAIT = "wait"
CLOSE = "close"
THIN = "thin"
ABANDON = "abandon"


@dataclass(slots=True)
class Round:
    """One call of one fragment, until it closes."""

    number: int
    called_s: float
    deadline_s: float
    grace_s: float
    longest_grace_s: float
    last: bool = False
    tau: int = 1
    expected: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, Cut] = field(default_factory=dict)
    patience: dict[str, float] = field(default_factory=dict)
    expected_tokens: int = 0
    arrived_tokens: int = 0
    num_waiting: int = 0
    enough_s: float = NEVER
    quorum_s: float = NEVER

    def awaits(self, name: str) -> bool:
        """Whether this learner was called and its cut is not here."""
        return name in self.expected and name not in self.arrived

    def arrive(self, name: str, cut: Cut, waited_for: bool) -> None:
        """A cut made for this round is here; a busy or away learner was not waited for."""
        assert self.awaits(name), "nobody arrives uncalled, or twice"
        self.arrived[name] = cut
        self.arrived_tokens += self.expected[name]
        if waited_for:
            self.num_waiting -= 1
        else:
            self.expected_tokens += self.expected[name]

    def recount(self, live: dict[str, bool]) -> None:
        """Somebody came or went: who is still waited for, and what they should hold."""
        self.num_waiting = 0
        self.expected_tokens = self.arrived_tokens = 0
        for name, tokens in self.expected.items():
            if name in self.arrived:
                self.arrived_tokens += tokens
                self.expected_tokens += tokens
            elif live.get(name, False):
                self.num_waiting += 1
                self.expected_tokens += tokens

    def patient_until_s(self) -> float:
        """The latest time until which a learner that was missed too often is waited for."""
        return max((t for n, t in self.patience.items() if n not in self.arrived), default=0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a round now, or when to look again."""

    kind: str
    until_s: float
    reason: Reason


def note(round: Round, quorum: int, min_share: float, now_s: float) -> None:
    """Keep in a round since when K and since when the quorum are there."""
    enough = len(round.arrived) >= quorum
    full = enough and round.arrived_tokens >= min_share * round.expected_tokens
    round.enough_s = min(round.enough_s, now_s) if enough else NEVER
    round.quorum_s = min(round.quorum_s, now_s) if full else NEVER


def judge(round: Round, quorum: int, now_s: float) -> Verdict:
    """Decide on a round, as it was last noted."""
    here = len(round.arrived)
    if round.enough_s == NEVER:
        return _below(round, quorum, now_s)
    full = round.quorum_s < NEVER
    if round.num_waiting <= 0:
        return Verdict(CLOSE, now_s, Reason("all_in", f"all {here} learners called are in"))
    wait_until_s = (
        round.quorum_s + round.grace_s if full else round.enough_s + round.longest_grace_s
    )
    until_s = min(max(wait_until_s, round.patient_until_s()), round.deadline_s)
    who = f"{here} in, {round.num_waiting} live learners not"
    if now_s < until_s:
        code = "grace" if full else "share"
        why = "in grace" if full else "below the token share"
        return Verdict(WAIT, until_s, Reason(code, f"{why}: {who}"))
    if full:
        return Verdict(CLOSE, now_s, Reason("grace_over", f"grace is over: {who}"))
    return Verdict(THIN, now_s, Reason("thin", f"the longest grace is over: {who}"))


def _below(round: Round, quorum: int, now_s: float) -> Verdict:
    here = len(round.arrived)
    if now_s < round.deadline_s:
        text = f"waiting for {quorum - here} more of the {quorum} learners that a round needs"
        return Verdict(WAIT, round.deadline_s, Reason("below_quorum", text))
    text = f"the deadline passed with {here} of the {quorum} learners that a round needs"
    return Verdict(ABANDON, now_s, Reason("abandoned", text))
