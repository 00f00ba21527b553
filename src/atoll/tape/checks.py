"""What must hold over a whole run, checked from its tapes: a registry of small functions.

Each check reads facts and says what is wrong; its docstring is what a person is shown. A fact that
is missing because a tape is torn, was not kept, or its process was killed is unknown, not wrong;
two facts that contradict each other are always wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from atoll.core.ids import Cut
from atoll.core.settings import ProtocolSettings
from atoll.tape.facts import (
    Act,
    Called,
    Heard,
    LearnerFacts,
    LifeFacts,
    MergedCut,
    SyncerFacts,
    Told,
)

MOST_CUTS = 2


@dataclass(frozen=True, slots=True)
class History:
    """All facts of a run."""

    settings: ProtocolSettings
    syncer: SyncerFacts
    learners: LearnerFacts


@dataclass(slots=True)
class Found:
    """What a check found: how many things it looked at, what is wrong, what cannot be said."""

    looked: int = 0
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


Check = Callable[[History, Found], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Enter a check under its name."""
    assert function.__doc__, "a check says what must hold"
    CHECKS[function.__name__] = function
    return function


# ---------------------------------------------------------------- versions


@check
def durable_before_visible(history: History, found: Found) -> None:
    """No learner was told of a version before it was durable at its shard."""
    facts = history.syncer
    for told in facts.told:
        found.looked += 1
        if told.version > told.durable:
            what = f"version {told.version} of fragment {told.fragment} was announced"
            found.wrong.append(f"{told.where}: {what}, {told.durable} was durable")
    for heard in history.learners.heard:
        found.looked += 1
        what = f"version {heard.version} of fragment {heard.fragment}"
        newest = facts.newest.get(heard.fragment, -1)
        if heard.fragment not in facts.owned:
            found.unknown.append(f"{heard.where}: {what} has no shard's tape")
        elif heard.version > newest and heard.fragment in facts.unfinished:
            found.unknown.append(f"{heard.where}: {what} is past the end of the shard's tape")
        elif heard.version > newest:
            found.wrong.append(f"{heard.where}: {what} was heard of and never was durable")


@check
def one_digest_per_version(history: History, found: Found) -> None:
    """Everybody who named a version of a fragment named the same digest for it."""
    facts = history.syncer
    found.wrong += facts.two_digests
    named: list[Told | Heard] = [*facts.told, *history.learners.heard]
    for each in named:
        found.looked += 1
        known = facts.digests.get((each.fragment, each.version))
        if known is not None and known != each.digest:
            what = f"version {each.version} of fragment {each.fragment}"
            found.wrong.append(f"{each.where}: {what} is {each.digest}, durable was {known}")


@check
def versions_rise_by_one(history: History, found: Found) -> None:
    """Each version of a fragment follows the one before it, without a gap or a repetition."""
    for durable in history.syncer.durable:
        found.looked += 1
        if durable.version != durable.before + 1:
            what = f"fragment {durable.fragment} went from version {durable.before}"
            found.wrong.append(f"{durable.where}: {what} to {durable.version}")


@check
def nothing_durable_is_lost(history: History, found: Found) -> None:
    """A shard that restarted came back with every version that had been durable."""
    found.looked = len(history.syncer.newest)
    found.wrong += history.syncer.lost_versions


# ---------------------------------------------------------------- what was merged


@check
def counted_once(history: History, found: Found) -> None:
    """A cut is merged into at most one version of its fragment, across restarts too."""
    versions: dict[tuple[object, int], int] = {}
    for merged in history.syncer.merged:
        found.looked += 1
        version = versions.setdefault((merged.id, merged.fragment), merged.version)
        if version != merged.version:
            what = f"{merged.id} is in version {merged.version} of fragment {merged.fragment}"
            found.wrong.append(f"{merged.where}: {what} and in {version}")


@check
def merged_work_is_disjoint(history: History, found: Found) -> None:
    """No token of a learner's life was merged twice into a fragment."""
    ends: dict[tuple[str, int, int], tuple[int, Cut]] = {}
    for merged in sorted(history.syncer.merged, key=lambda m: (m.fragment, m.version)):
        cut = merged.cut
        if cut is None:
            continue
        found.looked += 1
        key = (cut.id.learner, cut.id.incarnation, merged.fragment)
        version, before = ends.get(key, (merged.version, cut))
        if version < merged.version and cut.first_token < before.end_token:
            span = f"tokens {cut.first_token} to {cut.end_token}"
            text = f"version {version} has tokens up to {before.end_token}"
            found.wrong.append(f"{merged.where}: {cut.id} holds {span}, but {text}")
        ends[key] = (merged.version, cut)


@check
def merged_cuts_were_taken(history: History, found: Found) -> None:
    """Every merged cut was really taken by its learner: base, interval and steps are the same."""
    for each in history.learners.lives.values():
        found.wrong += each.two_cuts
    for merged in history.syncer.merged:
        if merged.cut is None:
            continue
        found.looked += 1
        life = _life_of(merged, history, found)
        if life is None:
            continue
        taken = life.cuts.get((merged.fragment, merged.id.number))
        beyond = merged.id.number > life.last_cut and not life.to_end
        if taken is None and (beyond or not life.from_begin):
            found.unknown.append(f"{merged.id} is not on what is left of its learner's tape")
        elif taken is None:
            found.wrong.append(f"{merged.where}: {merged.id} was never taken by its learner")
        elif taken != merged.cut:
            found.wrong.append(f"{merged.where}: merged was {merged.cut}, taken was {taken}")


def _life_of(merged: MergedCut, history: History, found: Found) -> LifeFacts | None:
    name, incarnation = merged.id.learner, merged.id.incarnation
    lives = history.learners.lives
    life = lives.get((name, incarnation))
    if life is not None:
        return life
    whole = all(each.to_end for each in lives.values() if each.learner == name)
    if name not in history.learners.names:
        found.unknown.append(f"there is no tape of {name}")
    elif not whole:
        found.unknown.append(f"life {incarnation} of {name} is not on its tape")
    else:
        found.wrong.append(f"{merged.where}: {merged.id} is of a life that {name} never had")
    return None


@check
def no_stale_life_was_merged(history: History, found: Found) -> None:
    """Only cuts of a learner's present life were ordered to be merged."""
    for order in history.syncer.orders:
        found.looked += 1
        for id in order.strangers:
            what = f"{id} was put into version {order.version} of fragment {order.fragment}"
            found.wrong.append(f"{order.where}: {what}, its life was not the present one")


@check
def every_merge_had_its_quorum(history: History, found: Found) -> None:
    """No version was made of fewer than K contributions (unless on_quorum_loss is degrade)."""
    settings = history.settings
    quorum = 1 if settings.on_quorum_loss == "degrade" else settings.quorum
    for order in history.syncer.orders:
        found.looked += 1
        if len(order.parts) < quorum:
            what = f"version {order.version} of fragment {order.fragment}"
            found.wrong.append(f"{order.where}: {what} has {len(order.parts)} of {quorum}")


# ---------------------------------------------------------------- the ledger


@check
def ledger_has_no_gap_or_overlap(history: History, found: Found) -> None:
    """Merged, dropped, in flight and open work of a life add up to what it trained."""
    found.wrong += history.learners.ledgers
    for life in history.learners.lives.values():
        for fragment, acts in sorted(life.acts.items()):
            found.looked += len(acts)
            wrong = _follow_ledger(life, fragment, acts)
            if wrong:
                name = f"life {life.incarnation} of {life.learner}, fragment {fragment}"
                found.wrong.append(f"{name}: {wrong}")


def _follow_ledger(life: LifeFacts, fragment: int, acts: list[Act]) -> str:
    """The first thing that is wrong with one ledger, by intervals: [merged | let go | origin ..."""
    origin, merged_end, merged = acts[0].number, 0, 0
    for act in acts[1:]:
        cut = life.cuts.get((fragment, act.number))
        if act.kind == "cut" and cut is not None:
            if (cut.first_token, cut.end_token) != (origin, act.tokens):
                span = f"tokens {cut.first_token} to {cut.end_token}"
                return f"{act.where}: {cut.id} holds {span}, open were {origin} to {act.tokens}"
        elif act.kind == "merged":
            if cut is None:
                return f"{act.where}: cut {act.number} was received as merged and never taken"
            if cut.first_token < merged_end:
                text = f"begins at token {cut.first_token}, up to {merged_end} all is merged"
                return f"{act.where}: {cut.id} {text}"
            merged_end, merged = cut.end_token, merged + cut.tokens
            origin = cut.end_token if cut.first_token >= origin else origin
        elif act.kind == "set":
            origin = act.tokens
        if not (merged <= merged_end <= origin <= act.tokens):
            text = f"{merged} merged up to {merged_end}, open from {origin}, trained {act.tokens}"
            return f"{act.where}: {text}"
    return ""


@check
def fates_agree(history: History, found: Found) -> None:
    """What a learner received as merged was merged by the shard, and what it dropped was not."""
    facts = history.syncer
    merged = {(each.id.learner, each.id.incarnation, each.fragment, each.id.number): each.version
              for each in facts.merged}  # fmt: skip
    for life in history.learners.lives.values():
        for (fragment, number), fate in sorted(life.fates.items()):
            if (fragment, number) not in life.cuts or fate in ("over", "died"):
                continue
            found.looked += 1
            version = merged.get((life.learner, life.incarnation, fragment, number))
            name = f"cut {life.learner}.{life.incarnation}.{number} of fragment {fragment}"
            if fate != "merged" and version is not None:
                found.wrong.append(f"{name} is in version {version}, but dropped as {fate}")
            elif fate == "merged" and version is None:
                known = fragment in facts.owned and fragment not in facts.gaps
                known = known and facts.oldest.get(fragment, 0) <= 0
                where = found.wrong if known else found.unknown
                where.append(f"{name} was received as merged, no version has it")


# ---------------------------------------------------------------- limits and order


@check
def boundary_limits(history: History, found: Found) -> None:
    """No boundary cut more than two fragments or installed more than ceil(tau P / H)."""
    for passed in history.learners.passed:
        found.looked += 1
        if passed.cuts > MOST_CUTS:
            found.wrong.append(f"{passed.where}: {passed.cuts} cuts at one boundary")
        if passed.installs > passed.limit:
            text = f"{passed.installs} installs at one boundary, {passed.limit} are allowed"
            found.wrong.append(f"{passed.where}: {text}")


@check
def epochs_never_go_down(history: History, found: Found) -> None:
    """Epochs only rise: with every takeover, and in what a learner accepts from each party."""
    for party, spoken in history.syncer.epochs.items():
        highest = 0
        for epoch, takeover in spoken:
            found.looked += 1
            if epoch < highest or (takeover and epoch == highest):
                found.wrong.append(f"{party}: epoch {epoch} after {highest}")
            highest = max(highest, epoch)
    for who, accepted in history.learners.epochs.items():
        for before, epoch in pairwise(accepted):
            found.looked += 1
            if epoch < before:
                found.wrong.append(f"{who}: epoch {epoch} was accepted after {before}")


@check
def launch_floor(history: History, found: Found) -> None:
    """Between two calls of a fragment at least K learners made H steps, less the look-ahead.

    Steps are those that the shard had heard of: who returns has made the steps it was away. Only
    calls of one epoch are compared, since a restart forgets calls after its snapshot; last rounds
    are called whenever the run ends. Slower learners may have made fewer steps.
    """
    settings = history.settings
    quorum = 1 if settings.on_quorum_loss == "degrade" else settings.quorum
    least = settings.H - settings.look_ahead
    before: dict[int, Called] = {}
    for call in history.syncer.calls:
        last = before.get(call.fragment)
        before[call.fragment] = call
        if last is None or last.epoch != call.epoch or last.number >= call.number:
            continue
        found.looked += 1
        made = [step - last.steps.get(key, 0) for key, step in call.steps.items()]
        enough = len([1 for steps in made if steps >= least])
        if enough < quorum:
            what = f"fragment {call.fragment} was called as {last.number} and as {call.number}"
            text = f"{enough} of {quorum} learners made {least} steps in between"
            found.wrong.append(f"{call.where}: {what}, {text}")


@check
def what_was_heard_was_said(history: History, found: Found) -> None:
    """Every call and every drop that a learner heard was sent to it by the fragment's shard."""
    facts = history.syncer
    for where, name, fragment, number in history.learners.heard_calls:
        found.looked += 1
        if (name, fragment, number) not in facts.sent_calls:
            _unsaid(facts, found, fragment, f"{where}: call {number} of fragment {fragment}")
    for where, id, fragment in history.learners.heard_drops:
        found.looked += 1
        if (id, fragment) not in facts.sent_drops:
            _unsaid(facts, found, fragment, f"{where}: the drop of {id}")


def _unsaid(facts: SyncerFacts, found: Found, fragment: int, what: str) -> None:
    known = fragment in facts.owned and fragment not in facts.gaps
    known = known and facts.oldest.get(fragment, 0) < 0
    (found.wrong if known else found.unknown).append(f"{what} was never sent")
