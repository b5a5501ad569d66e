"""Interpolation: every layer repeated in place (Chang et al., arXiv 1710.10348; ``interlace`` in the LiGO code)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import ALL, Growth, Mix


class Interpolate(Document):
    """Options of ``interpolate``."""

    method: Literal["interpolate"] = "interpolate"


def depth(growth: Growth, options: Interpolate, draws: Draws) -> dict[str, Mix]:
    """``D[i, floor(i L / L')] = 1``, ``(layers_large, layers_small)``: any ratio, order kept."""
    sources = np.arange(growth.large.layers) * growth.small.layers // growth.large.layers
    return {ALL: one_hot(sources, growth.small.layers)}
