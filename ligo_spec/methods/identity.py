"""Identity blocks: new layers that add nothing to the stream (LLaMA-Pro, Wu et al., arXiv 2401.02415, section 3.2).

A new layer is a copy of an old one in which all that adds to the stream is zero: output projections and their biases,
or the gains and scales behind them. What is zero has a gradient at once, since what it multiplies is not zero; the
copies get theirs as soon as it has moved. Lossless, but for families whose norms stand in the stream.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every
from ligo_spec.silence import adders


class Identity(Document):
    """Options of ``identity``."""

    method: Literal["identity"] = "identity"
    place: Literal["spread", "end", "start"] = "spread"
    """``spread``: evenly among the old layers, the last on top; ``end``: all on top; ``start``: all below the first."""


def depth(growth: Growth, stack: str, options: Identity, draws: Draws) -> dict[str, Mix]:
    """``D[i, j] = 1`` where new layer ``i`` follows old layer ``j``; rows of zeros for what writes the stream."""
    small, new = growth.small.depth(stack), growth.large.depth(stack) - growth.small.depth(stack)
    if options.place == "spread":  # the j-th new layer follows the first ceil(j L / new) old ones
        after = [-(-j * small // new) for j in range(1, new + 1)]
    else:
        after = [small if options.place == "end" else 0] * new
    old = np.arange(small)
    sources = np.insert(old, after, np.maximum(np.array(after, int) - 1, 0))
    return quiet(growth, stack, sources, np.insert(np.zeros(small, bool), after, True))


def quiet(growth: Growth, stack: str, sources: npt.NDArray[np.int64], new: npt.NDArray[np.bool_]) -> dict[str, Mix]:
    """Layer ``i`` copies layer ``sources[i]``, but for what the ``new`` ones would add to the stream: that is zero."""
    mix = one_hot(sources, growth.small.depth(stack))
    mixes = {every(stack): mix}
    if new.any():  # a map for each of them, since a fit learns a map of several tensors as one
        zeroed = mix * ~new[:, None]
        mixes |= {name: zeroed.copy() for name in adders(growth.small.family, stack)}
    return mixes
