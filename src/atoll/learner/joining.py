"""`join`: from a model and an invite to a learner whose model holds the published parameters.

The only place where a training loop may wait, and it says for what: the address, and the last
reason why it did not go on.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from atoll.access.errors import AccessError
from atoll.access.invite import Invite, read_invite
from atoll.ferry.door import Door, door_of
from atoll.ferry.errors import FerryError
from atoll.ferry.ferry import Ferry, Passage
from atoll.ferry.hall import Hall
from atoll.ferry.inner import InnerState
from atoll.ferry.island import Island
from atoll.ferry.mailbox import Mailbox
from atoll.ferry.terms import RunTerms
from atoll.fragments import Layout
from atoll.fragments.model import canonical_tensors, tensors_of
from atoll.learner.errors import JoinError
from atoll.learner.learner import Learner
from atoll.learner.notice import refuse_elsewhere
from atoll.learner.restoring import Circumstances, restore
from atoll.learner.schedule import set_current

JOIN_S = 300.0
RESTORE_S = 30.0
CHECKPOINT_EVERY_S = 60.0
LEAVE_S = 30.0
LONGEST_NAME = 64
log = logging.getLogger("atoll.learner")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class IslandOptions:
    """What is special about this island. Nothing of this is taken from the environment."""

    proxy: str = ""
    """`http://host:port` of a proxy to go through; empty for none."""
    max_up_mbit_s: float = 0.0
    """Cap on what leaves this island; 0 for none."""
    join_s: float = JOIN_S
    """How long `join` may wait for the syncer and for version 0."""
    leave_s: float = LEAVE_S
    """How long a normal exit may take to hand in the last contribution."""
    leave_on: tuple[signal.Signals, ...] = ()
    """Signals, such as SIGTERM, after which `step()` returns False and `close` hands in what is
    there within `leave_s` of the signal. A second one ends the process at once."""
    restore_s: float = RESTORE_S
    """How long `join` may wait for a peer's inner optimizer state; 0 asks for none."""
    checkpoint: Path | None = None
    """A file on a local disk for this learner's own inner optimizer state, kept in the background
    and read where no peer gives its own; None keeps none."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Time between two such checkpoints."""
    max_alone_s: float = 0.0
    """Without a word of the syncer for so long `step()` returns False, and `Learner.why_over` says
    why; 0: train on alone, for as long as it takes."""
    tapes: Path | None = None
    """A folder for the tape of what this learner saw and decided; None keeps none."""


def join(
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    invite: str | Path | Invite,
    name: str = "",
    params: Mapping[str, Tensor] | None = None,
    options: IslandOptions = IslandOptions(),
) -> Learner:
    """Take part in a run. Returns when the model holds every fragment's published version.

    `optimizer` is the one, or are those, whose inner state is taken from a peer where a run is
    under way; `Learner.restored` says what came of it. State that it has already is not touched.
    `name` is this island's own over restarts (the host's name when not given). `params` names the
    tensors to merge where they are not the model's own. Raises JoinError with address and reason.
    """
    began_s = time.monotonic()
    until_s = began_s + options.join_s
    _refuse_islands_of_many()
    refuse_elsewhere(options.leave_on)
    if model is None and params is None:
        raise JoinError("there is nothing to merge: give a model, or params={name: tensor}")
    learner_name = _checked_name(name)
    door = _door(invite, options)
    try:
        terms, layout, tensors = _agree(door, until_s, model, params)
    except (FerryError, ValueError) as error:
        raise JoinError(f"cannot join run {door.run!r} at {door}: {error}") from error
    island = Island(layout, tensors)
    island.prepare()
    mailbox = Mailbox()
    process = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    kept = (options.checkpoint, options.checkpoint_every_s)
    carrying = (options.max_up_mbit_s, options.tapes)
    passage = Passage(
        learner_name, process, door, terms, *carrying, *kept, max_alone_s=options.max_alone_s
    )
    inner = InnerState(layout, tensors, _several(optimizer))
    ferry = Ferry(passage, island, mailbox, inner)
    learner = Learner(island, mailbox, ferry, options.leave_s)
    learner.go_with_the_interpreter()
    ferry.start(0.0 if inner.is_there else options.restore_s)
    _installed(learner, mailbox, door, (until_s, options.join_s))
    try:
        owner = passage.owner(island, inner)
        around = Circumstances(ferry.is_under_way(), mailbox.inherited, options.checkpoint, owner)
        learner.restored = replace(restore(inner, around), took_s=time.monotonic() - began_s)
        mailbox.inherited = None
        log.info("%s: %s", learner_name, learner.restored)
        learner.notice.listen(options.leave_on)
    except BaseException:
        learner.close(0.0, "it could not join")
        raise
    set_current(learner)
    return learner


def _several(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
) -> Sequence[torch.optim.Optimizer]:
    if optimizer is None:
        return ()
    return (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)


def _installed(learner: Learner, mailbox: Mailbox, door: Door, limit: tuple[float, float]) -> None:
    until_s, join_s = limit
    why = "interrupted"
    try:
        why = learner.wait_until_installed(until_s)
    finally:
        if why:
            learner.close(0.0, "it could not join")
    if why:
        late = f" (given up after {join_s:g} s)" if mailbox.over is None else ""
        raise JoinError(f"cannot join run {door.run!r} at {door}: {why}{late}") from mailbox.cause


def _agree(
    door: Door, until_s: float, model: nn.Module | None, params: Mapping[str, Tensor] | None
) -> tuple[RunTerms, Layout, Mapping[str, Tensor]]:
    hall = Hall(door, until_s)
    try:
        terms = hall.terms()
        num_fragments, strategy = terms.protocol.P, terms.strategy
        if params is not None:
            layout = Layout.from_tensors(params, num_fragments, strategy)
            tensors: Mapping[str, Tensor] = canonical_tensors(params)
        else:
            assert model is not None, "one of the two is given"
            layout = Layout.from_module(model, num_fragments, strategy)
            tensors = tensors_of(model)
        hall.agree(layout)
    finally:
        hall.close()
    return terms, layout, tensors


def _door(invite: str | Path | Invite, options: IslandOptions) -> Door:
    try:
        found = invite if isinstance(invite, Invite) else read_invite(Path(invite))
        return door_of(found, proxy=options.proxy)
    except (AccessError, FerryError) as error:
        raise JoinError(str(error)) from error


def _checked_name(name: str) -> str:
    if not name:
        return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:LONGEST_NAME] or "learner"
    if _NAME.match(name) is None:
        raise JoinError(
            f"{name!r} is no name for a learner: use 1 to {LONGEST_NAME} letters, digits, - and _"
        )
    return name


def _refuse_islands_of_many() -> None:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    world_size = distributed.get_world_size()
    if world_size > 1:
        raise JoinError(
            f"this process is one of {world_size} of a torch.distributed group; joining from an "
            "island of several processes is not built yet: each would come in as a learner of its "
            "own and cut at another step. Join from a single process"
        )
