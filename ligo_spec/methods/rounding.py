"""The nearest layer by its place in the stack (Gopher, Rae et al., arXiv 2112.11446; code of ModernBERT, 2412.13663).

The code of ModernBERT has ``round(i * pretrained_layers / new_layers)``, halves to the even number, and nothing against
results that are no layer: of more than twice as many layers the last would come from layer ``L``. Here it is ``L - 1``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every


class Rounding(Document):
    """Options of ``rounding``."""

    method: Literal["rounding"] = "rounding"


def depth(growth: Growth, stack: str, options: Rounding, draws: Draws) -> dict[str, Mix]:
    """``D[i, min(round(i L / L'), L - 1)] = 1``, halves to the even number."""
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    nearest = np.rint(np.arange(large) * small / large).astype(np.int64)
    return {every(stack): one_hot(np.minimum(nearest, small - 1), small)}
