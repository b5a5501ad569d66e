"""In which order to mix layers and widen sides, and maps of all layers applied at once.

``B (Σ_j D[i, j] W_j) Aᵀ`` is the same in any order, where the maps are the same for all layers, and costs very
different numbers of products: a side that grows much is widened last, one that is long is contracted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import prod
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map
from ligo_torch.backend import Leaf, apply_map

Step = Literal["mix"] | int
"""Mix the layers, or widen a side of the tensors of a layer."""


def cheapest(shape: Sequence[int], layers: tuple[int, int], maps: Sequence[Sequence[Map]]) -> tuple[Step, ...]:
    """The order of the fewest products; the first of them on a draw.

    Args:
        shape: Of the small tensor of one layer.
        layers: How many there are, ``(large, small)``.
        maps: For every side that is widened, one map for all large layers, or one each.
    """
    steps: tuple[Step, ...] = ("mix", *range(len(maps)))
    orders = [order for order in permutations(steps) if _fits(order, maps)]
    return min(orders, key=lambda order: products(order, shape, layers, maps))


def _fits(order: tuple[Step, ...], maps: Sequence[Sequence[Map]]) -> bool:
    """Maps of single large layers come after the mixing that makes these."""
    before = order[: order.index("mix")]
    return all(len(maps[step]) == 1 for step in before if step != "mix")


def products(
    order: Sequence[Step], shape: Sequence[int], layers: tuple[int, int], maps: Sequence[Sequence[Map]]
) -> float:
    """Products of two numbers that an order takes."""
    sides, count, total = list(shape), layers[1], 0.0
    for step in order:
        if step == "mix":
            total += layers[0] * layers[1] * prod(sides)
            count = layers[0]
        else:
            total += count * prod(sides) * products_per_entry(maps[step][0])
            sides[step] = maps[step][0].shape[0]
    return total


def products_per_entry(map_: Map) -> float:
    """Products that a map takes for each entry of what it is applied to; copies take about one for each they make."""
    match map_:
        case Identity():
            return 0
        case Dense(matrix=matrix):
            return float(matrix.shape[0])
        case Blocks(parts=parts):
            return sum(products_per_entry(part) for part in parts)
        case Kron(outer=outer, inner=inner):
            first, second = (inner, outer) if map_.inner_first else (outer, inner)
            grown = first.shape[0] / first.shape[1]
            return products_per_entry(first) + grown * products_per_entry(second)
    return map_.shape[0] / map_.shape[1]


class Leaves:
    """Tensors that stand for the arrays of maps; those of several layers are stacked once, however often they are used.

    Args:
        leaf: Gives the tensor that stands for one array.
    """

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        self._stacks: dict[tuple[int, ...], Tensor] = {}

    def stacked(self, arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
        """Those of some arrays of one shape, ``(len(arrays), ...)``."""
        key = tuple(map(id, arrays))
        if key not in self._stacks:
            self._stacks[key] = torch.stack([self.leaf(array) for array in arrays])
        return self._stacks[key]


def apply_maps(maps: Sequence[Map], tensors: Tensor, axis: int, leaves: Leaves) -> Tensor:
    """One map for all layers, or one for each, applied along a side of their tensors.

    Args:
        maps: One, or as many as ``tensors`` has layers.
        tensors: ``(layers, ...)``.
        axis: Of ``tensors``; at least 1.
        leaves: The tensors that stand for the arrays of the maps.
    """
    if all(_alike(maps[0], other) for other in maps):
        match maps[0]:
            case Identity():
                return tensors
            case Dense():
                matrices = [map_.matrix for map_ in maps if isinstance(map_, Dense)]
                return _products(leaves.stacked(matrices), tensors, axis)
            case Blocks():
                parts = zip(*(map_.parts for map_ in maps if isinstance(map_, Blocks)), strict=True)
                return torch.cat([apply_maps(part, tensors, axis, leaves) for part in parts], dim=axis)
            case Kron():
                return _krons([map_ for map_ in maps if isinstance(map_, Kron)], tensors, axis, leaves)
    if len(maps) == 1:
        return apply_map(maps[0], tensors, axis, leaves.leaf)
    return torch.stack([apply_map(map_, tensors[i], axis - 1, leaves.leaf) for i, map_ in enumerate(maps)])


def _products(matrices: Tensor, tensors: Tensor, axis: int) -> Tensor:
    """``matrices``, ``(1 or layers, large, small)``, times ``tensors``, ``(layers, ...)``, along a side of them."""
    before, after = tensors.shape[:axis], tensors.shape[axis + 1 :]
    if not after:
        rows = tensors.reshape(len(matrices), -1, tensors.shape[axis])
        return torch.bmm(rows, matrices.mT).reshape(*before, -1)
    # A view of one matrix, if there is one for all layers or if the side is the first one of a layer.
    each = matrices[:, None].expand(before[0], prod(before[1:]), -1, -1).flatten(0, 1)
    return torch.bmm(each, tensors.flatten(axis + 1).flatten(0, axis - 1)).reshape(*before, -1, *after)


def _krons(maps: Sequence[Kron], tensors: Tensor, axis: int, leaves: Leaves) -> Tensor:
    before, after = tensors.shape[:axis], tensors.shape[axis + 1 :]
    outers, inners = [map_.outer for map_ in maps], [map_.inner for map_ in maps]
    halves = tensors.reshape(*before, outers[0].shape[1], inners[0].shape[1], *after)
    if maps[0].inner_first:
        grown = apply_maps(outers, apply_maps(inners, halves, axis + 1, leaves), axis, leaves)
    else:
        grown = apply_maps(inners, apply_maps(outers, halves, axis, leaves), axis + 1, leaves)
    return grown.reshape(*before, maps[0].shape[0], *after)


def _alike(first: Map, other: Map) -> bool:
    """Whether two maps have one structure at one size."""
    if first is other:
        return True
    if type(first) is not type(other) or first.shape != other.shape:
        return False
    if isinstance(first, Kron) and isinstance(other, Kron):
        return _alike(first.outer, other.outer) and _alike(first.inner, other.inner)
    if isinstance(first, Blocks) and isinstance(other, Blocks):
        pairs = zip(first.parts, other.parts, strict=False)
        return len(first.parts) == len(other.parts) and all(_alike(a, b) for a, b in pairs)
    return True
