"""Driver 1, island side: a thread beside training that carries fragments to the lagoon and back.

It owns the learner's core, the base copies, the codecs and blocking connections. Must never touch
the model's tensors except through orders that the training thread carries out at a boundary, and
must never make that thread wait. Keeps invariant 1: a learner never waits.
"""
