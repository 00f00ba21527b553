"""The syncer: the lagoon side's driver of the cores, as a service on one port.

Carries out what the coordinator and the shards decide: sockets, disks, merges. Must never decide
anything of the protocol itself, nor show what is not durable (invariants 2, 4, 6, 7, 9).
"""
