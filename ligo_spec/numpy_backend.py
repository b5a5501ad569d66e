"""The NumPy backend: every map applied in its own structure, never as a dense matrix where it is not one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select

Array = npt.NDArray[np.floating]


class NumpyBackend:
    """Applies operators with NumPy, on the CPU."""

    name = "numpy"

    def from_numpy(self, array: Array, /) -> Array:
        """The array itself."""
        return array

    def to_numpy(self, tensor: Array, /) -> Array:
        """The array itself."""
        return tensor

    def mix(self, tensors: Sequence[Array], weights: Sequence[float], /) -> Array:
        """``Σ_j weights[j] · tensors[j]``."""
        total = tensors[0] * tensors[0].dtype.type(weights[0])
        for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
            total += tensor * tensor.dtype.type(weight)
        return total

    def apply_map(self, map_: Map, tensor: Array, axis: int, /) -> Array:
        """``map_`` applied along ``axis``."""
        match map_:
            case Identity():
                return tensor
            case Select(index=index, weight=weight):
                taken = np.take(tensor, index, axis=axis)
                if weight is None:
                    return taken
                return taken * weight.astype(tensor.dtype).reshape([-1] + [1] * (tensor.ndim - axis - 1))
            case Dense(matrix=matrix):
                product = np.tensordot(matrix.astype(tensor.dtype), tensor, axes=(1, axis))
                return np.moveaxis(product, 0, axis)
            case Blocks(parts=parts):
                return np.concatenate([self.apply_map(part, tensor, axis) for part in parts], axis=axis)
            case Kron(outer=outer, inner=inner):
                before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
                split = tensor.reshape(*before, outer.shape[1], inner.shape[1], *after)
                if map_.inner_first:
                    grown = self.apply_map(outer, self.apply_map(inner, split, axis + 1), axis)
                else:
                    grown = self.apply_map(inner, self.apply_map(outer, split, axis), axis + 1)
                return grown.reshape(*before, map_.shape[0], *after)
