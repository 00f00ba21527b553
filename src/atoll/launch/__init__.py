"""Starting the processes of a run on one machine, watching them, and telling how it went."""

from __future__ import annotations
