"""An array of a tree: what its file says of it, and what tensor that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import printable
from ligo_spec.inputs import InputFile, has_control

SEPARATOR = "/"
"""Between the keys of a path."""

MAX_DEPTH = 64
"""Levels of a tree."""

MAX_PATH = 1024
"""Characters of a path."""

MAX_LEAVES = 1 << 20
"""Arrays of one file."""

MAX_RANK = 64
"""Dimensions of an array, as in NumPy."""


_MAX_SIDE = 1 << 48
_MAX_BYTES = 1 << 50

_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
# NumPy does not know bfloat16 and stores its bits as raw pairs of bytes; no other tensor has such a type.
_RAW_PAIR = ("V2", "void16")


class Leaf(Protocol):
    """An array of a file whose header was checked against the file's size."""

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """In the file's orientation."""
        ...

    def read(self, file: InputFile, /) -> npt.NDArray[Any]:
        """The values, C-contiguous or not, in native byte order.

        Raises:
            InputError: The values are not what the header promised.
        """
        ...


def dtype_of(name: str) -> str | None:
    """The safetensors name of a NumPy dtype, by its NumPy name; None for one that no tensor has."""
    return "BF16" if name in _RAW_PAIR else _NAMES.get(name)


def numpy_name(dtype: str) -> str:
    """The NumPy name of a dtype, by its safetensors name."""
    return DTYPES[dtype].name


def size_of(dtype: str, shape: Sequence[int]) -> int | None:
    """Bytes of an array, or None where the claim is of no array that there can be."""
    # Without the zeros: a side of 0 must not hide sides whose product NumPy cannot hold.
    possible = len(shape) <= MAX_RANK and all(0 <= side < _MAX_SIDE for side in shape)
    if not possible or math.prod(side for side in shape if side) >= _MAX_BYTES:
        return None
    return TensorInfo("", dtype, tuple(shape)).nbytes


def wrong_key(key: str) -> str | None:
    """What is wrong with a key of a tree, or None."""
    if key in ("", ".", "..") or SEPARATOR in key or "\\" in key:
        return f"key {printable(key, 40)!r} is not a plain name"
    return f"key {printable(key, 40)!r} holds control characters" if has_control(key) else None


def wrong_path(path: str) -> str | None:
    """What is wrong with a path as a whole, or None."""
    if len(path) > MAX_PATH:
        return f"the path has {len(path)} characters, at most {MAX_PATH} are read"
    depth = path.count(SEPARATOR) + 1
    return f"the tree is nested {depth} levels deep, at most {MAX_DEPTH} are read" if depth > MAX_DEPTH else None
