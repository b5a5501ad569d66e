"""How far matrices are from what a certificate needs: selections, isometries, rotations (SPEC.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import BLOCK, Blocks, Map, Matrix, as_select, gram, is_identity, row_blocks

Rows = npt.NDArray[np.bool_]


def nonzero_rows(map_: Map) -> Rows:
    """Which rows of a map are not all zero, ``(large,)``."""
    select = as_select(map_)
    if select is not None:
        live: Rows = select.weights != 0
        return live
    rows: Rows = np.concatenate([block.any(axis=1) for _, block in row_blocks(map_)])
    return rows


def distance(first: Map, second: Map) -> float:
    """Largest difference of two maps' entries; infinite where their shapes differ."""
    if first.shape != second.shape:
        return float("inf")
    return max(float(np.abs(block - second.rows(p.start, p.stop)).max(initial=0)) for p, block in row_blocks(first))


def distance_of_old_rows(map_: Map) -> float:
    """How far the first ``small`` rows are from the identity; where the structure shows it, no row is made."""
    small = map_.shape[1]
    first = map_.parts[0] if isinstance(map_, Blocks) else map_
    if is_identity(first):
        return 0.0
    worst = 0.0
    for start in range(0, min(small, map_.shape[0]), BLOCK):
        block = map_.rows(start, min(start + BLOCK, small, map_.shape[0]))
        block[np.arange(len(block)), np.arange(start, start + len(block))] -= 1
        worst = max(worst, largest(block))
    return worst


def distance_to_selection(map_: Map, live: Rows, zero_allowed: bool) -> float:
    """How far the live rows are from plain copies (one 1 each), or from zero rows where those are allowed."""
    select = as_select(map_)
    if select is not None:
        weights = select.weights[live]
        off = np.abs(weights - 1)
        return float((np.minimum(off, np.abs(weights)) if zero_allowed else off).max(initial=0))
    worst = 0.0
    for part, block in row_blocks(map_):
        rows = block[live[part]]
        if rows.size == 0:
            continue
        copy = np.zeros_like(rows)
        copy[np.arange(len(rows)), rows.argmax(axis=1)] = 1
        off = np.abs(rows - copy).max(axis=1)
        if zero_allowed:
            off = np.minimum(off, np.abs(rows).max(axis=1))
        worst = max(worst, float(off.max()))
    return worst


def sum_error(parts: Sequence[Map], whole: Map) -> float:
    """How far the sum of maps is from another map: the largest difference of two entries."""
    worst = 0.0
    for rows, block in row_blocks(whole):
        total = sum((part.rows(rows.start, rows.stop) for part in parts), np.zeros_like(block))
        worst = max(worst, largest(total - block))
    return worst


def isometry(map_: Map, *, centred: bool) -> tuple[float, float]:
    """``κ²`` and the error of ``Kᵀ K · d/d' = κ² P``: does the map keep mean squares up to one factor?

    ``K = P' B`` and ``P = I - 11ᵀ/d`` for a norm that centres; ``K = B`` and ``P = I`` for one that does not.
    """
    large, small = map_.shape
    product = gram(map_, map_)
    if not isinstance(product, np.ndarray):
        rows, columns, values = product
        if not centred:  # selections share no column, so the product is diagonal
            diagonal = np.zeros(small)
            diagonal[rows] = values
            spread = float(diagonal.mean())
            return spread * small / large, float(np.abs(diagonal - spread).max(initial=0.0)) * small / large
        product = np.zeros((small, small))
        product[rows, columns] = values
    if centred:
        sums = column_sums(map_)
        product = product - np.outer(sums, sums) / large
    projection = np.eye(small) - (1.0 / small if centred else 0.0)
    spread = float(np.trace(product) / max(np.trace(projection), 1e-300))
    return spread * small / large, float(np.abs(product - spread * projection).max()) * small / large


def column_sums(map_: Map) -> Matrix:
    """Sum of every column, ``(small,)``."""
    total = np.zeros(map_.shape[1])
    for _, block in row_blocks(map_):
        total += block.sum(axis=0)
    return total


def norm_rows(reads: Map, gain: Map, writes: Map, live: Rows, kappa: float, *, centred: bool) -> float:
    """Largest row error of ``G_i ⊗ K_i = κ diag(B_n,i) P``, as Frobenius norms of rows that are read.

    ``‖g ⊗ k - κ diag(n) P‖² = |g|²|k|² - 2κ Σ_a g_a n_a (P k)_a + κ² Σ_a n_a² P_aa``, without the matrix.
    """
    small = reads.shape[1]
    mean = column_sums(reads) / reads.shape[0] if centred else np.zeros(small)
    corner = 1.0 - 1.0 / small if centred else 1.0
    worst = 0.0
    for part, block in row_blocks(reads):
        keep = live[part]
        k, g = (block - mean)[keep], gain.rows(part.start, part.stop)[keep]
        n = writes.rows(part.start, part.stop)[keep]
        centred_k = k - k.mean(axis=1, keepdims=True) if centred else k
        squared = (g**2).sum(1) * (k**2).sum(1) - 2 * kappa * (g * n * centred_k).sum(1)
        squared += kappa**2 * corner * (n**2).sum(1)
        # rounding of the three sums, each of the size of the first
        floor = 1e-13 * ((g**2).sum(1) * (k**2).sum(1) + kappa**2 * (n**2).sum(1))
        squared = np.where(squared < floor, 0.0, squared)
        worst = max(worst, float(np.sqrt(squared.max(initial=0.0))))
    return worst


def largest(matrix: Matrix) -> float:
    """Largest absolute entry; 0 of none."""
    return float(np.abs(matrix).max(initial=0.0))


def off_rotation(block: Matrix) -> float:
    """How far ``(d_large, d)`` is from linking equal frequencies only, as complex numbers (methods 4.5).

    In half layout, pair ``p`` is coordinates ``p`` and ``p + d/2`` with frequency ``base^(-2p/d)``; pairs ``p'`` and
    ``p`` turn alike where ``p'/d' = p/d``.
    """
    d_large, d = block.shape
    real = block.reshape(2, d_large // 2, 2, d // 2)
    same = np.equal.outer(np.arange(d_large // 2) * d, np.arange(d // 2) * d_large)
    other = largest(real[:, ~same.any(axis=1)]) if not same.any(axis=1).all() else 0.0
    mixed = largest(np.where(same[None, :, None, :], 0.0, real).reshape(d_large, d))
    turned = max(largest(real[0, :, 0] - real[1, :, 1]), largest(real[0, :, 1] + real[1, :, 0]))
    return max(other, mixed, turned)
