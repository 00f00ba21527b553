"""Faults on purpose: real processes are killed, frozen, cut off and lied to, and must come back."""

from __future__ import annotations
