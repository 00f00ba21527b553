"""What holds for every test.

Generated examples are the same in every run, at home and in CI, so a test fails because of a change
and never by chance. Looking for new failures with fresh seeds is what `make fuzz` is for.
"""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("repeatable")
