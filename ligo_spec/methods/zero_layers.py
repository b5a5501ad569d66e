"""Layers on top that add nothing (Gesmundo and Maile, arXiv 2308.06103, section 3.6): the top block again, silent.

Only what adds to the stream is zero. A layer of nothing but zeros would be dead: its values are zero, so its output
projection has no gradient, and behind an output projection of zeros nothing else has one. The other tensors are those
of the top layers, as many as there are new ones, so that no two of these are alike as under ``identity``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.identity import quiet
from ligo_spec.operator import Growth, Mix


class ZeroLayers(Document):
    """Options of ``zero_layers``."""

    method: Literal["zero_layers"] = "zero_layers"


def depth(growth: Growth, stack: str, options: ZeroLayers, draws: Draws) -> dict[str, Mix]:
    """``D[i, L - b + ((i - L) mod b)] = 1`` for the new layers, ``b = min(L' - L, L)``; what they add is zero."""
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    block = min(large - small, small)
    top = small - block + np.arange(large - small) % max(block, 1)
    return quiet(growth, stack, np.concatenate([np.arange(small), top]), np.arange(large) >= small)
