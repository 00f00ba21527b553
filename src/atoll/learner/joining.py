"""`join`: from a model and an invite to a learner whose model holds the published parameters.

The only place where a training loop may wait, and it says for what: the address, and the last
reason why it did not go on.
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from atoll.access.errors import AccessError
from atoll.access.invite import Invite, read_invite
from atoll.ferry.door import Door, door_of
from atoll.ferry.errors import FerryError
from atoll.ferry.ferry import Ferry, Passage
from atoll.ferry.hall import Hall
from atoll.ferry.island import Island
from atoll.ferry.mailbox import Mailbox
from atoll.ferry.terms import RunTerms
from atoll.fragments import Layout
from atoll.fragments.model import canonical_tensors, tensors_of
from atoll.learner.errors import JoinError
from atoll.learner.learner import Learner
from atoll.learner.schedule import set_current

JOIN_S = 300.0
LEAVE_S = 30.0
LONGEST_NAME = 64
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
    tapes: Path | None = None
    """A folder for the tape of what this learner saw and decided; None keeps none."""


def join(
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | None = None,  # noqa: ARG001  # a place kept for inner state
    *,
    invite: str | Path | Invite,
    name: str = "",
    params: Mapping[str, Tensor] | None = None,
    options: IslandOptions = IslandOptions(),
) -> Learner:
    """Take part in a run. Returns when the model holds every fragment's published version.

    `name` is this island's own over restarts (the host's name when not given). `params` names the
    tensors to merge where they are not the model's own. Raises JoinError with address and reason.
    """
    until_s = time.monotonic() + options.join_s
    _refuse_islands_of_many()
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
    passage = Passage(learner_name, process, door, terms, options.max_up_mbit_s, options.tapes)
    ferry = Ferry(passage, island, mailbox)
    learner = Learner(island, mailbox, ferry, options.leave_s)
    learner.go_with_the_interpreter()
    ferry.start()
    _installed(learner, mailbox, door, (until_s, options.join_s))
    learner.restored = ferry.is_under_way()
    set_current(learner)
    return learner


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
