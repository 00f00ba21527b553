"""Sockets that a forked child must not keep.

A DataLoader's worker is a fork of the training process. Were it to keep the learner's sockets, a
dead learner's connection would look alive as long as the worker is. The child closes its copies;
it must never shut a connection down, which the parent would notice.
"""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress

_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_watching = False


def keep_from_children(sock: socket.socket) -> None:
    """Close this socket's copy in every child that is forked from now on."""
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_close_all)
    _open.add(sock)


def _close_all() -> None:
    for sock in list(_open):
        with suppress(OSError):
            sock.close()
    _open.clear()
