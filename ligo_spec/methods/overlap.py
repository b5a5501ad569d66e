"""Two copies that overlap: depth up-scaling (SOLAR, Kim et al., arXiv 2312.15166, section 2).

The last ``m`` layers of one copy and the first ``m`` of another are left out, ``m = L - L'/2``, and the rest is put
together. Where ``L'`` is odd, the lower copy has a layer more.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every


class Overlap(Document):
    """Options of ``overlap``."""

    method: Literal["overlap"] = "overlap"


def depth(growth: Growth, stack: str, options: Overlap, draws: Draws) -> dict[str, Mix]:
    """``D[i, i] = 1`` for the first ``ceil(L'/2)`` layers, ``D[i, i - (L' - L)] = 1`` for the others.

    Raises:
        PlanError: Two copies have too few layers.
    """
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    if large > 2 * small:
        message = f"{stack} grows from {small} to {large} layers, but two copies have {2 * small}"
        raise PlanError(f"overlap: {message}; stack takes more copies, ranges any layers")
    layers = np.arange(large)
    return {every(stack): one_hot(np.where(2 * layers < large, layers, layers - (large - small)), small)}
