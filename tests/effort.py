"""How many examples a property with a number of its own tries: CI draws the same ones each time, so half are enough."""

import os

IN_CI = bool(os.environ.get("CI"))

PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev")
"""Of hypothesis; see ``conftest.py``."""


def examples(count: int) -> int:
    """``count``, or half of it under CI's profile."""
    return (count + 1) // 2 if PROFILE == "ci" else count
