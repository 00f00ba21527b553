"""Who may take part: tokens, the invite file, and TLS against the run's own authority.

Must never print, log or send a run's secret. Keeps invariant 9: nobody uninvited.
"""
