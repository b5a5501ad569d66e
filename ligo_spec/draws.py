"""Random numbers that belong to a name, not to the order of calls: every backend draws the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """A seed; ``of(name)`` is a generator of its own for every name."""

    seed: int

    def of(self, name: str) -> np.random.Generator:
        """The generator that belongs to ``name`` (a canonical tensor or a map) under this seed."""
        digest = hashlib.sha256(name.encode("utf-8")).digest()
        words = np.frombuffer(digest, dtype="<u4").tolist()
        return np.random.default_rng(np.random.SeedSequence([self.seed, *words]))
