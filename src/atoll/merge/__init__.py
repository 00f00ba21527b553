"""The numeric half of a merge: codecs, averaging, outer optimizers, the published chain.

No I/O, no clock, no randomness, no decisions. `FragmentMerger` is the one entry that all drivers
call; the modules beside it are its parts.
"""
