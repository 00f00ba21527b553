"""The order in which windows are visited; the same that leases are cut from."""

from atoll.core.order import EpochOrder, Permutation

__all__ = ["EpochOrder", "Permutation"]
