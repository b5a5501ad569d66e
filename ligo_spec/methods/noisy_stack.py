"""LiGO's start in depth: a stack with a little of every other layer (VITA-Group/LiGO, ligo.py, ``stackbert_noisy``).

Every tensor of every large layer has a row of its own, weights and biases too: ``U(0, 0.03) + onehot(i mod L)``,
normalised to sum 1. Layers of another kind than layer ``i mod L`` get none.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.layer_kinds import same_kind
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix


class NoisyStack(Document):
    """Options of ``noisy_stack``."""

    method: Literal["noisy_stack"] = "noisy_stack"
    noise: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Upper end of the uniform noise before a row is normalised."""


def depth(growth: Growth, stack: str, options: NoisyStack, draws: Draws) -> dict[str, Mix]:
    """One ``(layers_large, layers_small)`` map per layer tensor, rows summing to 1."""
    layers = growth.small.depth(stack)
    stacked = np.arange(growth.large.depth(stack)) % layers
    start = one_hot(stacked, layers)
    noise = options.noise * same_kind(growth, stack, stacked.tolist())
    mixes = {}
    for template in growth.small.family.tensors:
        if growth.small.family.stack_of(template) == stack:
            noisy = start + noise * draws.of(f"noisy_stack.{template}").random(start.shape)
            mixes[template] = noisy / noisy.sum(axis=1, keepdims=True)
    return mixes
