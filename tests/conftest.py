"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Time limits of single examples only measure the machine; pytest's own timeout ends what hangs.
# In CI every run tries the same examples, so that a failure is the change's, not the dice's.
_CI = bool(os.environ.get("CI"))
settings.register_profile("quick", max_examples=100, deadline=None, derandomize=_CI)
settings.register_profile("long", max_examples=100_000, deadline=None, derandomize=_CI)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
