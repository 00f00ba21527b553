"""The decisions of Atoll: pure state machines that never touch a socket, a clock or a tensor.

Three cores decide everything: `ShardCore` (rounds of fragments), `CoordinatorCore` (membership,
leases, budget) and `LearnerCore` (when to cut, upload, install). A driver translates what happens
into a frozen event, calls `handle(now_s, event)`, carries out each returned effect and keeps one
timer at `next_deadline_s()`. Standard library only; the same events give the same effects.
"""
