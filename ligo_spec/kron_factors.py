"""A map as heads ⊗ what is within a head, where its entries allow it."""

from __future__ import annotations

import numpy as np

from ligo_spec.maps import Identity, Kron, Map, as_select, weighted_select


def factors(map_: Map, heads: tuple[int, int]) -> tuple[Map, Map] | None:
    """``outer`` and ``inner`` with ``map = outer ⊗ inner``, or None where its structure does not show any.

    Args:
        map_: ``(heads_large · d_large, heads_small · d_small)``.
        heads: ``(heads_large, heads_small)``, the shape of ``outer``.
    """
    if isinstance(map_, Kron) and map_.outer.shape == heads:
        return map_.outer, map_.inner
    chosen = as_select(map_)
    if chosen is None:
        return None
    large, small = heads[0], heads[1]
    side = chosen.small // small
    index, weight = chosen.index.reshape(large, -1), chosen.weights.reshape(large, -1)
    outer, inner = index[:, 0] // side, index[0] % side
    if not np.array_equal(index, outer[:, None] * side + inner[None, :]):
        return None
    lead = int(np.abs(weight).max(axis=1).argmax())
    within = weight[lead]
    scale = weight @ within / (within @ within) if within.any() else np.zeros(large)
    if not np.allclose(weight, np.outer(scale, within), rtol=1e-12, atol=0):
        return None
    if (within == within[0]).all():
        scale, within = scale * within[0], np.ones_like(within)
    return _simplest(outer, small, scale), _simplest(inner, side, within)


def _simplest(
    index: np.ndarray[tuple[int], np.dtype[np.int64]], small: int, weight: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> Map:
    found = weighted_select(index, small, weight)
    return Identity(small) if found.weight is None and np.array_equal(index, np.arange(small)) else found
