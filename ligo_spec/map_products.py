"""Maps made of maps, entry by entry, in the structure that they have: squares, products, rows left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Blocks, Dense, Kron, Map, Select, as_select, row_blocks, with_arrays
from ligo_spec.measures import nonzero_rows

Rows = npt.NDArray[np.bool_]


def squared(map_: Map) -> Map:
    """Every entry squared."""
    return with_arrays(map_, np.square)  # entries of a Kronecker product are products, so this holds for it too


def entrywise(first: Map, second: Map) -> Map:
    """The product of two maps of one shape, entry by entry."""
    a, b = as_select(first), as_select(second)
    if a is not None and b is not None:
        return Select(a.index, a.small, a.weights * b.weights * (a.index == b.index))
    if isinstance(first, Blocks) and isinstance(second, Blocks) and _shapes(first) == _shapes(second):
        return Blocks(tuple(entrywise(p, q) for p, q in zip(first.parts, second.parts, strict=True)))
    if isinstance(first, Kron) and isinstance(second, Kron) and first.inner.shape == second.inner.shape:
        return Kron(entrywise(first.outer, second.outer), entrywise(first.inner, second.inner))
    return Dense(np.concatenate([block * second.rows(part.start, part.stop) for part, block in row_blocks(first)]))


def without_rows(map_: Map, rows: Rows) -> Map:
    """The map with some rows set to zero.

    Args:
        map_: ``(large, small)``.
        rows: ``(large,)``, true where a row goes.
    """
    if not (rows & nonzero_rows(map_)).any():
        return map_
    if isinstance(map_, Blocks):
        ends = np.cumsum([part.shape[0] for part in map_.parts])[:-1]
        return Blocks(tuple(without_rows(p, r) for p, r in zip(map_.parts, np.split(rows, ends), strict=True)))
    chosen = as_select(map_)
    if chosen is not None:
        return Select(chosen.index, chosen.small, np.where(rows, 0.0, chosen.weights))
    return Dense(np.concatenate([np.where(rows[part, None], 0.0, block) for part, block in row_blocks(map_)]))


def first_rows(map_: Map) -> Rows:
    """Rows that are the first to take most from their small entry; no zero row is, ``(large,)``."""
    main = main_entries(map_)
    live = nonzero_rows(map_)
    found: Rows = np.zeros(main.size, dtype=np.bool_)
    places = np.flatnonzero(live)
    found[places[np.unique(main[places], return_index=True)[1]]] = True
    return found


def main_entries(map_: Map) -> npt.NDArray[np.int64]:
    """The small entry that counts most in every row, ``(large,)``."""
    chosen = as_select(map_)
    if chosen is not None:
        return chosen.index
    return np.concatenate([np.abs(block).argmax(axis=1) for _, block in row_blocks(map_)])


def _shapes(blocks: Blocks) -> list[tuple[int, int]]:
    return [part.shape for part in blocks.parts]
