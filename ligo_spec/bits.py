"""Arrays to the bytes of a file and back. Files are little-endian; bits are never changed, only moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def to_bytes(array: npt.NDArray[Any]) -> memoryview:
    """The values in row-major order, least significant byte first."""
    # The one choke point: the library writes wrong values for arrays that are not C-contiguous.
    flat = np.ascontiguousarray(array).reshape(-1)
    order = ">" if flat.dtype.str.startswith(">") else "<"
    words = flat.view(f"{order}u{flat.dtype.itemsize}")
    return words.astype(f"<u{flat.dtype.itemsize}", copy=False).view(np.uint8).data


def from_bytes(data: npt.NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array that `to_bytes` gave the bytes of, in native byte order; a view of ``data`` where that is possible."""
    words = data.view(f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}", copy=False)
    return words.view(dtype).reshape(shape)
