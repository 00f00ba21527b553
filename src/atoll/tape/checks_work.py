"""Checks of the work: every cut counted once, every token with one fate, both sides agreeing."""

from __future__ import annotations

from atoll.core.ids import Cut
from atoll.tape.checks import Found, History, check
from atoll.tape.facts import Act, LifeFacts, MergedCut

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
        key = (merged.fragment, merged.id.number)
        taken = life.cuts.get(key)
        unsaid = merged.id.number > life.last_cut or key in life.taken
        if taken is None and ((unsaid and not life.to_end) or not life.from_begin):
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
    quorum = history.quorum
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
                where = found.wrong if history.is_whole(fragment) else found.unknown
                where.append(f"{name} was received as merged, no version has it")
