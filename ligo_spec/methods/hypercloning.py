"""HyperCloning: every hidden vector repeated k times (Samragh et al., arXiv 2409.12903, section 3; symmetric form).

``x' = [x; ...; x]``: ``B = 1_k ⊗ I``, ``A = B / k``. Needs an integer factor on every axis that grows. Lossless.

With ``noise``, the copies of an entry are read at ``(1 + ε) / k``, where the ``ε`` cancel. The paper adds noise ``±η``
to neighbouring column blocks of each weight; ours is the part of it that is a width map, ``η = W diag(ε) / k``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError
from ligo_spec.maps import Index
from ligo_spec.methods.shares import noisily
from ligo_spec.methods.width import Choose, Width, copies, named
from ligo_spec.operator import Growth


class HyperCloning(Document):
    """Options of ``hypercloning``."""

    method: Literal["hypercloning"] = "hypercloning"
    noise: Annotated[float | None, Field(ge=0, le=300, examples=[10])] = None
    """Signal-to-noise ratio, in dB, of how copies are read: they part in training (the paper: 10); null for none."""


def width(growth: Growth, options: HyperCloning, draws: Draws) -> Width:
    """The maps of HyperCloning.

    Raises:
        PlanError: A size does not grow by an integer factor, or ``head_dim`` grows under rotary positions.
    """
    return named(
        copies(growth, options.method, repeated(options.method), noisily(options.method, options.noise, draws))
    )


def repeated(method: str) -> Choose:
    """Every entry in turn, all equally often.

    Args:
        method: For the message of a refusal.
    """

    def choose(axis: str, small: int, large: int) -> Index:
        if large % small:
            raise PlanError(
                f"{method} copies whole vectors: {axis} {small} → {large} is no integer factor "
                f"(nearest: {small * max(1, large // small)}, {small * (large // small + 1)}); "
                "or use another width method"
            )
        return np.arange(large) % small

    return choose
