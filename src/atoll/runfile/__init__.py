"""The run file: one TOML file, composed of settings that live beside their owners."""

from __future__ import annotations
