"""What can be shown of a map: means of blocks, as an image has them, and how far a fit has moved it.

Both follow the structure, so that a selection over a vocabulary costs as little as it weighs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Blocks, Identity, Map, Matrix, Select, as_select

Index = npt.NDArray[np.int64]

SIDE = 128
"""Most pixels along one side of an image of a map."""

_ENTRIES = 1 << 21
"""Entries that are dense at a time."""


def binned(map_: Map, side: int = SIDE) -> Matrix:
    """Means of blocks of a map, ``(min(large, side), min(small, side))``: bin ``k`` starts at ``ceil(k n / bins)``."""
    bins = [np.arange(size) * min(size, side) // size for size in map_.shape]
    counts = [np.bincount(each).astype(np.float64) for each in bins]
    total = np.zeros((counts[0].size, counts[1].size))
    _add(total, map_, bins[0], bins[1])
    means: Matrix = total / np.outer(counts[0], counts[1])
    return means


def means(values: Matrix, bins: int) -> tuple[Matrix, Matrix]:
    """A curve of at most ``bins`` points: mean place (counted from 1) and mean value of each stretch."""
    place = np.arange(values.size) * min(values.size, bins) // max(values.size, 1)
    counts = np.bincount(place)
    where = np.bincount(place, weights=np.arange(values.size) + 1.0) / counts
    return where, np.bincount(place, weights=values) / counts


def change(start: Map, end: Map) -> float:
    """``‖end - start‖ / ‖start‖`` in the Frobenius norm; infinite where only the start is zero."""
    return ratio(_squared_distance(start, end), _squares(start))


def ratio(moved: float, whole: float) -> float:
    """``√(moved / whole)`` of two sums of squares, 0 where both are 0."""
    if not moved:
        return 0.0
    return float(np.sqrt(moved / whole)) if whole else float("inf")


def _add(total: Matrix, map_: Map, rows: Index, columns: Index) -> None:
    """Add the entries of a map to the bins of its rows and columns."""
    if isinstance(map_, Blocks):
        offset = 0
        for part in map_.parts:
            _add(total, part, rows[offset : offset + part.shape[0]], columns)
            offset += part.shape[0]
        return
    chosen = as_select(map_)
    if chosen is not None:
        np.add.at(total, (rows, columns[chosen.index]), chosen.weights)
        return
    edges = np.flatnonzero(np.diff(columns, prepend=-1))
    for place, block in _blocks(map_):
        np.add.at(total, rows[place], np.add.reduceat(block, edges, axis=1))


def _squares(map_: Map) -> float:
    match map_:
        case Identity(size=size):
            return float(size)
        case Select():
            return float(np.sum(map_.weights**2))
        case Blocks(parts=parts):
            return sum(_squares(part) for part in parts)
        case _:
            return sum(float(np.sum(block**2)) for _, block in _blocks(map_))


def _squared_distance(start: Map, end: Map) -> float:
    if start is end:
        return 0.0
    if isinstance(start, Blocks) and isinstance(end, Blocks) and _heights(start) == _heights(end):
        return sum(_squared_distance(a, b) for a, b in zip(start.parts, end.parts, strict=True))
    first, second = as_select(start), as_select(end)
    if first is not None and second is not None and np.array_equal(first.index, second.index):
        return float(np.sum((second.weights - first.weights) ** 2))
    return sum(float(np.sum((end.rows(p.start, p.stop) - block) ** 2)) for p, block in _blocks(start))


def _heights(map_: Blocks) -> list[int]:
    return [part.shape[0] for part in map_.parts]


def _blocks(map_: Map) -> Iterator[tuple[slice, Matrix]]:
    """The map, a bounded number of dense entries at a time."""
    step = max(1, _ENTRIES // max(map_.shape[1], 1))
    for start in range(0, map_.shape[0], step):
        stop = min(start + step, map_.shape[0])
        yield slice(start, stop), map_.rows(start, stop)
