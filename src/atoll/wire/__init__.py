"""Messages to bytes and back: control frames, the protocol's version, and records of the cores.

Must never open a socket, and never build anything but the classes listed here from bytes. What
comes from outside is believed only as far as its shape; what it means the cores decide.
"""
