"""By how much two arrays differ: by bits, by rounding, or by numbers; integers exactly, NaN and infinities counted."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_STEP = 1 << 20  # entries that are widened to float64 at once


@dataclass(frozen=True)
class Difference:
    """By how much two tensors of one shape differ.

    Args:
        max_abs: Largest absolute difference, where both are finite; an integer between integers, and exact.
        max_rel: The same as a share of the first tensor's largest absolute value; None where that is zero.
        share: Share of entries that differ: in a bit where the dtypes are one, else in value.
        cosine: Of the angle between both, where both are finite; None where one is zero.
        nonfinite: Entries that are finite on one side only, or NaN or infinite in unlike ways.
    """

    max_abs: int | float
    max_rel: float | None
    share: float
    cosine: float | None
    nonfinite: int


def agreement(a: Array, b: Array) -> Literal["bits", "values"] | None:
    """Whether two arrays hold the same: every bit, or, of two dtypes, one the values of the other, rounded to it."""
    if a.shape != b.shape:
        return None
    if a.dtype == b.dtype:
        return "bits" if np.array_equal(_bits(a), _bits(b)) else None
    if _is_integer(a.dtype) and _is_integer(b.dtype):
        return "values" if np.array_equal(a, b) else None
    narrowing = [(a, b)] if _is_integer(a.dtype) else [(b, a)] if _is_integer(b.dtype) else [(a, b), (b, a)]
    return "values" if any(_rounds_to(wide, narrow) for wide, narrow in narrowing) else None


def rounded(value: Array, dtype: np.dtype[Any]) -> Array:
    """The values in another dtype, to nearest; too large ones are infinite or NaN there."""
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def difference(a: Array, b: Array) -> Difference:
    """The numbers, for two arrays of one shape."""
    exact = _is_integer(a.dtype) and _is_integer(b.dtype)
    largest: int | float = 0
    scale, count, nonfinite = 0.0, 0, 0
    for x, y in _pieces(a, b):
        count += _count_unlike(x, y)
        if exact:
            largest = max(largest, _integer_gap(x, y))
            scale = max(scale, *(abs(int(side)) for side in (x.min(), x.max())))
        else:
            gap, size, odd = _float_gap(_widened(x), _widened(y))
            largest, scale, nonfinite = max(largest, gap), max(scale, size), nonfinite + odd
    relative = float(largest / scale) if scale else None
    relative = relative if relative is None else min(relative, sys.float_info.max)
    return Difference(largest, relative, count / max(a.size, 1), _cosine(a, b), nonfinite)


def _rounds_to(wide: Array, narrow: Array) -> bool:
    """Whether ``narrow`` is ``wide`` in its own dtype. What overflows is not rounded but lost."""
    for x, y in _pieces(wide, narrow):
        near, there = _widened(rounded(x, y.dtype)), _widened(y)
        kept = np.isfinite(_widened(x)) == np.isfinite(there)
        if not (kept & ((near == there) | (np.isnan(near) & np.isnan(there)))).all():
            return False
    return True


def _pieces(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    first, second = (np.ascontiguousarray(value).reshape(-1) for value in (a, b))
    for start in range(0, first.size, _STEP):
        yield first[start : start + _STEP], second[start : start + _STEP]


def _bits(value: Array) -> Array:
    return np.ascontiguousarray(value).reshape(-1).view(f"u{value.dtype.itemsize}")


def _widened(value: Array) -> Floats:
    return rounded(value, np.dtype(np.float64))


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iub"


def _count_unlike(x: Array, y: Array) -> int:
    if x.dtype == y.dtype:
        return int(np.count_nonzero(_bits(x) != _bits(y)))
    if _is_integer(x.dtype) and _is_integer(y.dtype):
        return int(np.count_nonzero(x != y))
    wide, other = _widened(x), _widened(y)
    return int(np.count_nonzero((wide != other) & ~(np.isnan(wide) & np.isnan(other))))


def _integer_gap(x: Array, y: Array) -> int:
    if x.dtype != y.dtype and np.dtype(np.uint64) in (x.dtype, y.dtype):
        return int(np.abs(x.astype(object) - y.astype(object)).max())  # up to 65 bits
    # Differences of 64-bit integers have 64 bits without a sign; those below wrap around to just that.
    u, v = x.astype(np.uint64), y.astype(np.uint64)
    return int(np.where(x >= y, u - v, v - u).max())


def _float_gap(x: Floats, y: Floats) -> tuple[float, float, int]:
    """Largest difference, largest size of ``x``, and how many entries are not finite in unlike ways."""
    finite = np.isfinite(x) & np.isfinite(y)
    alike = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.max(np.abs(x - y), where=finite, initial=0)
    size = np.max(np.abs(x), where=np.isfinite(x), initial=0)
    # Two ends of float64 are further apart than a float64 can say.
    return min(float(gap), sys.float_info.max), float(size), int(np.count_nonzero(~finite & ~alike))


def _cosine(a: Array, b: Array) -> float | None:
    # Both are scaled to 1 first: squares of large or tiny values have no place in a float64.
    largest = [0.0, 0.0]
    for x, y in _pieces(a, b):
        wide = [_widened(x), _widened(y)]
        finite = np.isfinite(wide[0]) & np.isfinite(wide[1])
        largest = [
            max(old, float(np.max(np.abs(v), where=finite, initial=0))) for old, v in zip(largest, wide, strict=True)
        ]
    if 0.0 in largest:
        return None
    product, first, second = 0.0, 0.0, 0.0
    for x, y in _pieces(a, b):
        u, v = _widened(x) / largest[0], _widened(y) / largest[1]
        finite = np.isfinite(u) & np.isfinite(v)
        u, v = u[finite], v[finite]
        product, first, second = product + float(u @ v), first + float(u @ u), second + float(v @ v)
    return max(-1.0, min(1.0, product / (math.sqrt(first) * math.sqrt(second))))
