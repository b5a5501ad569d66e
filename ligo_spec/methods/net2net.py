"""Net2WiderNet: new units copy random old ones, readers divide by the count (Chen et al., arXiv 1511.05641, sec. 2.2).

``B = S`` with the identity on top, ``A = S diag(1 / counts)``, the counts including the original (the caution in
SPEC.md 4.2). Lossless where every entry that a norm reads is copied equally often. bert2BERT's FPI is this map.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Index
from ligo_spec.methods.shares import noisily
from ligo_spec.methods.width import Choose, Width, copies, named
from ligo_spec.operator import Growth


class Net2Net(Document):
    """Options of ``net2net``."""

    method: Literal["net2net"] = "net2net"
    choice: Literal["random", "even"] = "random"
    """Which units are copied: drawn at random, or each in turn (as equally often as the sizes allow)."""
    noise: Annotated[float | None, Field(ge=0, le=300, examples=[10])] = None
    """Signal-to-noise ratio, in dB, of how copies are read: they part in training; null for none."""


def width(growth: Growth, options: Net2Net, draws: Draws) -> Width:
    """The maps of Net2WiderNet.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    share = noisily(options.method, options.noise, draws)
    return named(copies(growth, options.method, chosen(options.choice, draws), share))


def chosen(choice: Literal["random", "even"], draws: Draws) -> Choose:
    """The identity on top; below it, copies of units drawn at random, or of each in turn."""

    def choose(axis: str, small: int, large: int) -> Index:
        new = np.arange(small, large) % small
        if choice == "random":
            new = draws.of(f"net2net.{axis}").integers(0, small, large - small)
        return np.concatenate([np.arange(small), new]).astype(np.int64)

    return choose
