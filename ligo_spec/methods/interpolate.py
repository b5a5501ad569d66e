"""Interpolation: every layer repeated in place (Chang et al., arXiv 1710.10348; ``interlace`` in the LiGO code)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every


class Interpolate(Document):
    """Options of ``interpolate``."""

    method: Literal["interpolate"] = "interpolate"


def depth(growth: Growth, stack: str, options: Interpolate, draws: Draws) -> dict[str, Mix]:
    """``D[i, floor(i L / L')] = 1``, ``(layers_large, layers_small)``: any ratio, order kept."""
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    return {every(stack): one_hot(np.arange(large) * small // large, small)}
