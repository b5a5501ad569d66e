"""What a backend is: arrays in and out, a map along an axis, a mix of layers. Found by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ligo_spec.maps import Map
from ligo_spec.plugins import load_plugin

T = TypeVar("T")


class Backend(Protocol[T]):
    """The operations that applying an operator needs, on a framework's own tensors.

    Before adding a member, ask whether it can be a function over these.
    """

    name: str

    def from_numpy(self, array: npt.NDArray[np.floating], /) -> T:
        """A tensor with the values and dtype (float32 or float64) of ``array``."""
        ...

    def to_numpy(self, tensor: T, /) -> npt.NDArray[np.floating]:
        """The values of a tensor, float32 or float64."""
        ...

    def apply_map(self, map_: Map, tensor: T, axis: int, /) -> T:
        """``map_`` applied along ``axis``, whose size goes from the map's small to its large size."""
        ...

    def mix(self, tensors: Sequence[T], weights: Sequence[float], /) -> T:
        """``Σ_j weights[j] · tensors[j]``, at least one, all of one shape."""
        ...


def backend_names() -> list[str]:
    """Names of the installed backends."""
    return sorted(entry.name for entry in entry_points(group="ligo_spec.backends"))


def load_backend(name: str, /, **options: Any) -> Backend[Any]:
    """A new backend of an installed kind, e.g. ``load_backend("torch", device="cuda")``.

    Raises:
        PlanError: No backend has that name, or what it needs is not installed.
    """
    return load_plugin("ligo_spec.backends", name)(**options)  # type: ignore[no-any-return]
