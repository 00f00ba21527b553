"""Durable state of a run: record log, snapshots, manifests, and the store that joins them.

Knows bytes and plain records. Must never decide anything of the protocol, open a socket, or
put anything executable on disk. Keeps invariant 2 (durable before visible) and 4 (a run that is
not there is refused, never started silently).
"""
