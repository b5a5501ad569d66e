"""StackBERT's depth map: layer ``i`` copies layer ``i mod L`` (Gong et al., ICML 2019; Gstack, arXiv 2405.15319)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.operator import Growth, Mix, every


class Stack(Document):
    """Options of ``stack``."""

    method: Literal["stack"] = "stack"


def depth(growth: Growth, stack: str, options: Stack, draws: Draws) -> dict[str, Mix]:
    """``D[i, i mod L] = 1``, ``(layers_large, layers_small)``."""
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    return {every(stack): one_hot(np.arange(large) % small, small)}


def one_hot(sources: np.ndarray[tuple[int], np.dtype[np.int64]], layers_small: int) -> Mix:
    """The depth map under which layer ``i`` copies layer ``sources[i]``."""
    mix = np.zeros((sources.size, layers_small))
    mix[np.arange(sources.size), sources] = 1
    return mix
