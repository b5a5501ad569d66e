"""What methods that copy a block of layers share: how long it is, and how it is repeated until there are enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ligo_spec.errors import PlanError, Problem
from ligo_spec.methods.stack import one_hot
from ligo_spec.operator import Growth, Mix, every


def block_of(growth: Growth, stack: str, method: str, asked: int | None, *, whole: bool = False) -> int:
    """The layers of a block: as asked, or the most that fit.

    Args:
        growth: Small and large architecture.
        stack: Whose layers.
        method: Its name, for messages.
        asked: The length that the plan asks for.
        whole: The small model, too, must be a number of blocks.

    Raises:
        PlanError: A block of that length does not fit.
    """
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    new = large - small
    fitting = [b for b in range(1, small + 1) if new % b == 0 and not (whole and small % b)]
    if asked is None or not new:  # a stack that stays has no blocks to copy
        return fitting[-1]
    if asked not in fitting:
        rule = f"divides both {small} and {new}" if whole else f"is at most {small} and divides {new}"
        message = f"{method}: {stack} grows from {small} to {large} layers, so a block {rule}; {asked} does not fit, "
        raise PlanError(Problem("depth.block", f"{message}{', '.join(map(str, fitting[-5:]))} would"))
    return asked


def repeated(growth: Growth, stack: str, block: int, first: Callable[[int], int]) -> dict[str, Mix]:
    """One-hot rows: ``block`` layers, from ``first(layers)`` on, once more behind these, until there are enough."""
    small, large = growth.small.depth(stack), growth.large.depth(stack)
    sources = list(range(small))
    while len(sources) < large:
        start = first(len(sources))
        sources[start + block : start + block] = sources[start : start + block]
    return {every(stack): one_hot(np.array(sources), small)}
