"""Checks of versions, epochs and limits: what became visible when, in which order, how often."""

from __future__ import annotations

from itertools import pairwise

from atoll.tape.checks import Found, History, check
from atoll.tape.facts import Called, Heard, Told

MOST_CUTS = 2


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


# ---------------------------------------------------------------- limits and order


@check
def boundary_limits(history: History, found: Found) -> None:
    """No boundary cut more than two fragments or installed more than ceil(tau P / first H)."""
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
    quorum = history.quorum
    before: dict[int, Called] = {}
    for call in history.syncer.calls:
        last = before.get(call.fragment)
        before[call.fragment] = call
        if last is None or last.epoch != call.epoch or last.number >= call.number:
            continue
        found.looked += 1
        least = settings.period_steps(last.version) - settings.look_ahead
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
            _unsaid(history, found, fragment, f"{where}: call {number} of fragment {fragment}")
    for where, id, fragment in history.learners.heard_drops:
        found.looked += 1
        if (id, fragment) not in facts.sent_drops:
            _unsaid(history, found, fragment, f"{where}: the drop of {id}")


def _unsaid(history: History, found: Found, fragment: int, what: str) -> None:
    where = found.wrong if history.is_whole(fragment) else found.unknown
    where.append(f"{what} was never sent")
