"""Maps on torch tensors. Everything here is differentiable in the tensors and in the maps' own arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ligo_spec.errors import PlanError
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select

Leaf = Callable[[npt.NDArray[Any]], Tensor]
"""Gives the tensor that stands for an array of a map: its values, or the parameter that is learned in its place."""


class TorchBackend:
    """Applies operators with PyTorch.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Raises:
        PlanError: The device is not there.
    """

    name = "torch"

    def __init__(self, device: str = "auto") -> None:
        self.device = find_device(device)

    def from_numpy(self, array: npt.NDArray[np.floating], /) -> Tensor:
        """A tensor on the device, with the values and dtype of ``array``."""
        return torch.tensor(array, device=self.device)

    def to_numpy(self, tensor: Tensor, /) -> npt.NDArray[np.floating]:
        """The values of a tensor."""
        values: npt.NDArray[np.floating] = tensor.detach().cpu().numpy()
        return values

    def mix(self, tensors: Sequence[Tensor], weights: Sequence[float], /) -> Tensor:
        """``Σ_j weights[j] · tensors[j]``."""
        total = tensors[0] * weights[0]
        for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
            total = total + tensor * weight
        return total

    def apply_map(self, map_: Map, tensor: Tensor, axis: int, /) -> Tensor:
        """``map_`` applied along ``axis``."""
        return apply_map(map_, tensor, axis, lambda array: torch.tensor(array, device=self.device, dtype=tensor.dtype))


def find_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU where there is one.

    Raises:
        PlanError: The device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"device {name!r}: torch finds no CUDA device; use cpu or auto")
    return torch.device(name)


def apply_map(map_: Map, tensor: Tensor, axis: int, leaf: Leaf) -> Tensor:
    """``map_`` applied along ``axis``, its arrays taken from ``leaf``. Selections are gathers, never products."""
    match map_:
        case Identity():
            return tensor
        case Select(index=index, weight=weight):
            taken = tensor.index_select(axis, torch.as_tensor(index, device=tensor.device))
            return taken if weight is None else taken * leaf(weight).reshape([-1] + [1] * (tensor.ndim - axis - 1))
        case Dense(matrix=matrix):
            product: Tensor = torch.tensordot(leaf(matrix), tensor, dims=([1], [axis]))
            return product.movedim(0, axis)
        case Blocks(parts=parts):
            return torch.cat([apply_map(part, tensor, axis, leaf) for part in parts], dim=axis)
        case Kron(outer=outer, inner=inner):
            before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
            halves = tensor.reshape(*before, outer.shape[1], inner.shape[1], *after)
            if map_.inner_first:
                grown = apply_map(outer, apply_map(inner, halves, axis + 1, leaf), axis, leaf)
            else:
                grown = apply_map(inner, apply_map(outer, halves, axis, leaf), axis + 1, leaf)
            return grown.reshape(*before, map_.shape[0], *after)
