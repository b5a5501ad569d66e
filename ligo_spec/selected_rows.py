"""Selections row by row, and which of their rows are exact: what rules about single entries look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Index, Map, Matrix, Select, as_select

Rows = npt.NDArray[np.bool_]

TOLERANCE = 1e-9
"""Weights such as √(d/d') and their products differ by rounding."""


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """Row ``p`` takes ``weight[p]`` times entry ``index[p]``.

    Args:
        index: ``(large,)``.
        weight: ``(large,)``.
        small: Size of the small space.
        exact: ``(large,)``, whether the row is right for every model of the family.
    """

    index: Index
    weight: Matrix
    small: int
    exact: Rows

    @property
    def map(self) -> Map:
        """The selection."""
        plain = bool((self.weight == 1).all())
        return Select(self.index.astype(np.int64), self.small, None if plain else self.weight)


def selected(map_: Map) -> SelectedRows | None:
    """The rows of a map, all exact; None where its structure does not show that it is a selection."""
    found = as_select(map_)
    if found is None:
        return None
    return SelectedRows(found.index, found.weights, found.small, np.ones(found.index.size, dtype=np.bool_))


def close(first: Any, second: Any) -> Any:
    """Whether weights are equal up to rounding, entry by entry."""
    return np.abs(first - second) <= TOLERANCE * np.maximum(1.0, np.abs(second))


def agree(first: SelectedRows, second: SelectedRows) -> Rows:
    """Rows that two selections have in common."""
    same = (first.index == second.index) | ((first.weight == 0) & (second.weight == 0))
    rows: Rows = same & close(first.weight, second.weight)
    return rows
