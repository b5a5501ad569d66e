"""Centre tiling: old weights in the middle, wrapped around (ModernBERT, Warner et al., arXiv 2412.13663, appendix A.2).

``W'[p, q] = W[(p - o) mod d_out, (q - o') mod d_in]`` with offsets ``o = ⌊(d' - d) / 2⌋`` (methods 3.16), each of
query, key, value and both halves of a gated unit for itself. Nothing is divided by counts, epsilons stay: not lossless.
The official code shifts the flat rows of queries and keys, which tears heads apart unless the offset is a multiple of
their size; here whole heads are tiled, and coordinates within them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Index, Select
from ligo_spec.methods.width import Width, copies, named
from ligo_spec.operator import Growth


class CenterTile(Document):
    """Options of ``center_tile``."""

    method: Literal["center_tile"] = "center_tile"


def width(growth: Growth, options: CenterTile, draws: Draws) -> Width:
    """The maps of centre tiling.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    return named(copies(growth, options.method, _around, _alike))


def _around(axis: str, small: int, large: int) -> Index:
    return (np.arange(large) - (large - small) // 2) % small


def _alike(space: str, select: Select) -> Select:
    """``A = B``: every copy is read in full."""
    return select
