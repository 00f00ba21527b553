"""Tapes: every event and effect of a core, to be looked at, replayed and checked afterwards.

A tape watches and decides nothing. It must never stop or slow a run: when it cannot be written,
it says so once and ends itself. Keeps invariant 8: same events, same decisions.
"""
