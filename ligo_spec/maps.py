"""Width maps: linear maps from a small space to a large one, kept in the structure that they have.

A map has shape ``(large, small)``. ``rows(start, stop)`` gives a dense float64 block of it; everything else
(applying it, checking it, storing it) looks at the structure and never needs the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ligo_spec.errors import InputError

Floats = npt.NDArray[np.floating]
Matrix = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

BLOCK = 512
"""Rows that are dense at a time when a whole map is walked."""


@dataclass(frozen=True, eq=False)
class Identity:
    """The identity on a space that does not grow."""

    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(size, size)``."""
        return self.size, self.size

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows ``start`` to ``stop``, dense: ``(stop - start, small)``."""
        block = np.zeros((stop - start, self.size))
        block[np.arange(stop - start), np.arange(start, stop)] = 1
        return block


@dataclass(frozen=True, eq=False)
class Select:
    """Each row takes one entry of the small space, times a weight: copies, splits, zero rows.

    Args:
        index: ``(large,)``, the small entry that each row takes.
        small: Size of the small space.
        weight: ``(large,)``, or None for all ones. Weight 0 makes a zero row.
    """

    index: Index
    small: int
    weight: Floats | None = None

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or (self.index.size and not 0 <= self.index.min() <= self.index.max() < self.small):
            raise InputError(f"a select map's index must be one row of integers from 0 to {self.small - 1}")
        if self.weight is not None and self.weight.shape != self.index.shape:
            raise InputError(f"a select map has index {self.index.shape} but weight {self.weight.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(large, small)``."""
        return self.index.size, self.small

    @property
    def weights(self) -> Matrix:
        """The weight of every row, ``(large,)``."""
        return np.ones(self.index.size) if self.weight is None else self.weight.astype(np.float64)

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows ``start`` to ``stop``, dense: ``(stop - start, small)``."""
        block = np.zeros((stop - start, self.small))
        block[np.arange(stop - start), self.index[start:stop]] = self.weights[start:stop]
        return block


@dataclass(frozen=True, eq=False)
class Dense:
    """Any matrix, ``(large, small)``."""

    matrix: Floats

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2:
            raise InputError(f"a dense map needs a matrix, found shape {self.matrix.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(large, small)``."""
        large, small = self.matrix.shape
        return large, small

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows ``start`` to ``stop``, dense: ``(stop - start, small)``."""
        return self.matrix[start:stop].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Maps over one another, e.g. ``[I; C]`` of the official LiGO code."""

    parts: tuple[Map, ...]

    def __post_init__(self) -> None:
        if len({part.shape[1] for part in self.parts}) != 1:
            raise InputError(f"blocks need parts with one small size, found {[part.shape for part in self.parts]}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(sum of the parts' large sizes, small)``."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows ``start`` to ``stop``, dense: ``(stop - start, small)``."""
        pieces, offset = [], 0
        for part in self.parts:
            first, last = max(start - offset, 0), min(stop - offset, part.shape[0])
            if first < last:
                pieces.append(part.rows(first, last))
            offset += part.shape[0]
        return np.concatenate([*pieces, np.zeros((0, self.shape[1]))])


@dataclass(frozen=True, eq=False)
class Kron:
    """``outer ⊗ inner``, e.g. a map of heads ⊗ the identity on ``head_dim``."""

    outer: Map
    inner: Map

    @property
    def shape(self) -> tuple[int, int]:
        """Products of the two maps' sizes."""
        return self.outer.shape[0] * self.inner.shape[0], self.outer.shape[1] * self.inner.shape[1]

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows ``start`` to ``stop``, dense: ``(stop - start, small)``."""
        step = self.inner.shape[0]
        first, last = start // step, -(-stop // step)
        block: Matrix = np.kron(self.outer.rows(first, last), self.inner.rows(0, step)).astype(np.float64)
        return block[start - first * step : stop - first * step]

    @property
    def inner_first(self) -> bool:
        """Whether applying ``inner`` before ``outer`` makes the smaller array in between."""
        return self.outer.shape[1] * self.inner.shape[0] < self.outer.shape[0] * self.inner.shape[1]


Map = Identity | Select | Dense | Blocks | Kron


def dense(map_: Map) -> Matrix:
    """The whole matrix of a map, ``(large, small)``, float64."""
    return map_.rows(0, map_.shape[0])


def row_blocks(map_: Map) -> Iterator[tuple[slice, Matrix]]:
    """The map, ``BLOCK`` dense rows at a time."""
    for start in range(0, map_.shape[0], BLOCK):
        stop = min(start + BLOCK, map_.shape[0])
        yield slice(start, stop), map_.rows(start, stop)


def as_select(map_: Map) -> Select | None:
    """The map as one ``Select``, or None where its structure does not show that it is one."""
    match map_:
        case Identity(size=size):
            return Select(np.arange(size), size)
        case Select():
            return map_
        case Blocks(parts=parts):
            chosen = [as_select(part) for part in parts]
            found = [part for part in chosen if part is not None]
            if len(found) < len(chosen):
                return None
            index = np.concatenate([part.index for part in found])
            return weighted_select(index, map_.shape[1], np.concatenate([part.weights for part in found]))
        case Kron(outer=outer, inner=inner):
            rows, columns = as_select(outer), as_select(inner)
            if rows is None or columns is None:
                return None
            index = (rows.index[:, None] * inner.shape[1] + columns.index[None, :]).ravel()
            return weighted_select(index, map_.shape[1], np.outer(rows.weights, columns.weights).ravel())
    return None


def is_copy(map_: Map) -> bool:
    """Whether each row is a bare copy of one small entry, so that no arithmetic is needed."""
    selected = as_select(map_)
    return selected is not None and selected.weight is None


def is_identity(map_: Map) -> bool:
    """Whether the map changes nothing."""
    if isinstance(map_, Identity):
        return True
    rows, columns = map_.shape
    if rows != columns:
        return False
    return all(np.array_equal(block, Identity(rows).rows(part.start, part.stop)) for part, block in row_blocks(map_))


def equal(first: Map, second: Map) -> bool:
    """Whether two maps are the same matrix, whatever their structure."""
    if first is second:
        return True
    if first.shape != second.shape:
        return False
    a, b = as_select(first), as_select(second)
    if a is not None and b is not None:
        live = (a.weights != 0) | (b.weights != 0)
        return bool(np.array_equal(a.weights, b.weights) and np.array_equal(a.index[live], b.index[live]))
    return all(np.array_equal(block, second.rows(part.start, part.stop)) for part, block in row_blocks(first))


def gram(first: Map, second: Map) -> tuple[Index, Index, Matrix] | Matrix:
    """``firstᵀ second``: dense ``(small, small)``, or (row, column, value) triples when both are selections."""
    a, b = as_select(first), as_select(second)
    if a is None or b is None:
        total = np.zeros((first.shape[1], second.shape[1]))
        for part, block in row_blocks(first):
            total += block.T @ second.rows(part.start, part.stop)
        return total
    pairs: Index = a.index * np.int64(b.small) + b.index
    keys, place = np.unique(pairs, return_inverse=True)
    values: Matrix = np.bincount(place, weights=a.weights * b.weights, minlength=keys.size).astype(np.float64)
    rows, columns = np.divmod(keys, np.int64(b.small))
    return rows, columns, values


def gram_error(first: Map, second: Map, *, enough: float = np.inf) -> float:
    """Largest entry of ``|firstᵀ second - I|``: 0 when what is written can be read back.

    A column block with an error above ``enough`` ends the search: of a dense pair, only as many columns are computed
    as it takes to see that it is wrong.
    """
    a, b = as_select(first), as_select(second)
    size = first.shape[1]
    if a is None or b is None:
        worst = 0.0
        for start in range(0, size, BLOCK):
            columns = slice(start, min(start + BLOCK, size))
            product = np.zeros((size, columns.stop - start))
            for part, block in row_blocks(first):
                product += block.T @ second.rows(part.start, part.stop)[:, columns]
            product[columns] -= np.eye(columns.stop - start)
            worst = max(worst, float(np.abs(product).max(initial=0.0)))
            if worst > enough:
                break
        return worst
    triples = gram(a, b)
    assert not isinstance(triples, np.ndarray)
    rows, others, values = triples
    diagonal = np.zeros(size)
    diagonal[rows[rows == others]] = values[rows == others]
    off = np.abs(values[rows != others]).max(initial=0.0)
    return float(max(np.abs(diagonal - 1).max(initial=0.0), off))


def stack(parts: Sequence[Map]) -> Map:
    """The parts over one another, without a wrapper where one part is enough."""
    kept = [part for part in parts if part.shape[0]]
    return kept[0] if len(kept) == 1 else Blocks(tuple(kept))


def scaled(map_: Map, factor: float) -> Map:
    """``factor`` times the map, in the same structure."""
    if factor == 1.0:
        return map_
    match map_:
        case Identity(size=size):
            return Select(np.arange(size), size, np.full(size, factor))
        case Select(index=index, small=small):
            return Select(index, small, map_.weights * factor)
        case Dense(matrix=matrix):
            return Dense(matrix * factor)
        case Blocks(parts=parts):
            return Blocks(tuple(scaled(part, factor) for part in parts))
        case Kron(outer=outer, inner=inner):
            return Kron(scaled(outer, factor), inner)


def weighted_select(index: Index, small: int, weights: Matrix) -> Select:
    """A selection at weights, ``(large,)``; without any where they are all 1, so that it shows as bare copies."""
    return Select(index, small, None if bool((weights == 1).all()) else weights)


def arrays_of(map_: Map) -> list[Floats]:
    """The float arrays in a map, in a fixed order: what a fit can learn."""
    match map_:
        case Identity():
            return []
        case Select(weight=weight):
            return [] if weight is None else [weight]
        case Dense(matrix=matrix):
            return [matrix]
        case Blocks(parts=parts):
            return [array for part in parts for array in arrays_of(part)]
        case Kron(outer=outer, inner=inner):
            return arrays_of(outer) + arrays_of(inner)


def with_arrays(map_: Map, change: Callable[[Floats], Floats]) -> Map:
    """The same structure with every float array changed."""
    match map_:
        case Identity():
            return map_
        case Select(index=index, small=small, weight=weight):
            return map_ if weight is None else Select(index, small, change(weight))
        case Dense(matrix=matrix):
            return Dense(change(matrix))
        case Blocks(parts=parts):
            return Blocks(tuple(with_arrays(part, change) for part in parts))
        case Kron(outer=outer, inner=inner):
            return Kron(with_arrays(outer, change), with_arrays(inner, change))
