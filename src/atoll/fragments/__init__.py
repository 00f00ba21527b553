"""Parameters -> fragments: the same cut everywhere, from canonical names and global shapes.

`Layout` and `first_difference` are plain data and need no torch; `gather`, `scatter_` and
`tensors_of` do, and are imported from `atoll.fragments.access` and `atoll.fragments.model`.
"""

from atoll.fragments.difference import first_difference
from atoll.fragments.layout import Layout
from atoll.fragments.pieces import Fragment, Kind, Piece, Strategy, TensorSpec

__all__ = [
    "Fragment",
    "Kind",
    "Layout",
    "Piece",
    "Strategy",
    "TensorSpec",
    "first_difference",
]
