"""How those who read a space share what is copied among the copies: evenly, unevenly, or with noise that cancels.

``A`` is any map with ``Aᵀ B = I``: where entry ``a`` is copied to the rows ``p``, only ``Σ_p A[p, a] = 1`` is asked
(methods 4.1). Copies that are read alike get equal gradients for ever; copies that are not, part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ligo_spec.draws import Draws
from ligo_spec.maps import Index, Matrix, Select, weighted_select

Share = Callable[[str, Select], Select]
"""``(space, B)`` -> ``A``."""


def evenly(space: str, select: Select) -> Select:
    """What is copied ``c`` times is read at weight ``1 / c``."""
    return weighted(select, 1.0 / counts(select)[select.index])


def unevenly(space: str, select: Select) -> Select:
    """What is copied ``c`` times is read at weights ``1 : 2 : ... : c``, which sum to 1: no two are alike."""
    c = counts(select)[select.index]
    return weighted(select, 2.0 * (ranks(select) + 1) / (c * (c + 1)))


def noisily(method: str, decibels: float | None, draws: Draws) -> Share:
    """Even shares and noise that cancels over the copies of an entry, at a signal-to-noise ratio.

    ``A[p] = (1 + ε_p) / c`` with ``Σ_p ε_p = 0`` over the copies and the mean square of ``ε`` at ``10^(-dB/10)``.

    Args:
        method: Whose draws.
        decibels: The ratio of the squares of even shares and noise, in dB; None for no noise.
        draws: Where the noise comes from.
    """
    if decibels is None:
        return evenly
    size = 10 ** (-decibels / 20)

    def share(space: str, select: Select) -> Select:
        c = counts(select)
        drawn = draws.of(f"{method}.noise.{space}").standard_normal(select.index.size)
        centred = drawn - sums(select.index, drawn, select.small)[select.index] / c[select.index]
        noise = size * centred * np.sqrt(c / np.maximum(c - 1, 1))[select.index]
        return weighted(select, (1.0 + noise) / c[select.index])

    return share


def counts(select: Select) -> Matrix:
    """How often each small entry is selected, ``(small,)``."""
    return np.bincount(select.index, minlength=select.small).astype(np.float64)


def sums(index: Index, values: Matrix, small: int) -> Matrix:
    """Sum of the values of each small entry's rows, ``(small,)``."""
    return np.bincount(index, weights=values, minlength=small).astype(np.float64)


def ranks(select: Select) -> Index:
    """Which copy of its entry each row is, counted from 0 down the rows, ``(large,)``."""
    order = np.argsort(select.index, kind="stable")
    ordered = select.index[order]
    first = np.searchsorted(ordered, ordered)
    found = np.empty(order.size, dtype=np.int64)
    found[order] = np.arange(order.size) - first
    return found


def weighted(select: Select, weights: Matrix) -> Select:
    """The same selection at other weights; without any where they are all 1."""
    return weighted_select(select.index, select.small, weights)
