"""Property tests search afresh on a developer's machine, and repeat themselves at a gate.

With `CI` set, hypothesis derives its examples from the test alone: a change is judged by what it
changes, not by luck. Run without it to search.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")
